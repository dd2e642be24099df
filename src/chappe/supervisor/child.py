"""One supervised process: started, known to be ready, asked to end, and never outliving its supervisor."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import Mapping

from msgspec import Struct

from chappe.search_path import child_command
from chappe.supervisor.environment import environment_for

log = logging.getLogger("chappe.supervisor")

READY_VARIABLE = "CHAPPE_READY_FD"
PARENT_VARIABLE = "CHAPPE_PARENT_FD"


class ChildSpec(Struct, frozen=True):
    """What to run: a name for people, the arguments behind `python -m chappe`, the grace to end in, the silence to bear."""

    name: str
    arguments: tuple[str, ...]
    grace: float = 30.0
    patience: float = 12.0


class Child:
    """A process of a specification."""

    def __init__(self, spec: ChildSpec) -> None:
        self.spec = spec
        self.process: asyncio.subprocess.Process | None = None
        self.ready = asyncio.Event()
        self.crashes = 0
        self.starts = 0
        self.planned_ends = 0
        self.was_ready = False
        self.asked = False
        self.started_at = 0.0
        self.heard_at = 0.0
        self._life: int | None = None

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""
        return self.process.pid if self.process is not None and self.process.returncode is None else None

    async def start(self, environment: Mapping[str, str]) -> None:
        """Start it; `ready` is set when it says so.

        It inherits the reading end of a pipe whose other end only we hold: when we die, it sees the end of it.
        """
        self.ready.clear()
        self.asked = False
        ready_read, ready_write = os.pipe()
        life_read, life_write = os.pipe()
        try:
            self.process = await asyncio.create_subprocess_exec(
                *child_command(self.spec.arguments),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(ready_write, life_read),
                start_new_session=True,  # a Ctrl-C in the terminal is for us; we tell the children
                env={
                    **environment_for(self.spec.arguments[0], environment),
                    READY_VARIABLE: str(ready_write),
                    PARENT_VARIABLE: str(life_read),
                },
            )
        except BaseException:
            os.close(ready_read)
            os.close(life_write)
            raise
        finally:
            os.close(ready_write)
            os.close(life_read)
        self._life = life_write
        self.starts += 1
        self.started_at = time.monotonic()
        self._listen(ready_read)

    def _listen(self, handle: int) -> None:
        """Hear the first sign of life as "ready", and each that follows."""
        loop = asyncio.get_running_loop()
        process = self.process

        def readable() -> None:
            if not os.read(handle, 4096):
                loop.remove_reader(handle)
                os.close(handle)
                return
            self.heard_at = time.monotonic()
            self.was_ready = True
            if process is self.process and not self.asked:
                self.ready.set()

        loop.add_reader(handle, readable)

    def signal(self, number: int) -> None:
        """Send a signal if it runs."""
        if self.pid is not None and self.process is not None:
            self.asked = self.asked or number == signal.SIGTERM
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(number)

    def silence(self, now: float) -> float:
        """Return the seconds since the last sign of life; none before it was ready or when it was asked to end."""
        return now - self.heard_at if self.pid is not None and self.ready.is_set() and not self.asked else 0.0

    def is_busy(self) -> bool:
        """Tell whether it computes or waits for the disk, as opposed to being frozen."""
        import psutil  # here, because every child imports this file for the names of its variables

        try:
            return psutil.Process(self.pid).status() in (psutil.STATUS_RUNNING, psutil.STATUS_DISK_SLEEP)
        except psutil.Error:
            return False

    async def wait(self) -> int:
        """Wait for the end and return the exit code; a signal is its number, negative."""
        assert self.process is not None
        code = await self.process.wait()
        if self._life is not None:
            os.close(self._life)
            self._life = None
        return code

    async def stop(self, *, cold: bool = False) -> None:
        """Ask it to end, at once if `cold`, and end it when its grace is over."""
        if self.process is None or self.process.returncode is not None:
            return
        self.signal(signal.SIGQUIT if cold and self.spec.arguments[0] == "worker" else signal.SIGTERM)
        try:
            async with asyncio.timeout(self.spec.grace):
                await self.process.wait()
        except TimeoutError:
            log.warning("%s (%d) did not end within %g s and is killed", self.spec.name, self.process.pid, self.spec.grace)
            self.signal(signal.SIGKILL)
            await self.process.wait()
