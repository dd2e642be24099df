"""One supervised process: started, known to be ready, asked to end, and never outliving its supervisor."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import signal
import time
from collections.abc import Callable, Mapping

import msgspec
import psutil

from chappe import beats
from chappe.beats import Beat
from chappe.engines.file.running_tables import started_by
from chappe.lifetime import PARENT_VARIABLE, READY_VARIABLE, memory_of
from chappe.supervisor.backoff import is_fatal, pause
from chappe.supervisor.launcher import Launcher, Process
from chappe.supervisor.plan import ChildSpec
from chappe.supervisor.release import Release

log = logging.getLogger("chappe.supervisor")


class Child:
    """A process of a specification, started again each time it ends until it is retired."""

    def __init__(self, spec: ChildSpec, release: Release | None = None) -> None:
        """Prepare; what holds no application is of no release."""
        self.spec = spec
        self.release = release
        self.process: Process | None = None
        self.ready = asyncio.Event()
        self.ended = asyncio.Event()
        self.crashes = 0
        self.starts = 0
        self.planned_ends = 0
        self.was_ready = False
        self.came_up = False  # in its latest start
        self.asked = self.killed = False  # by us, in its latest start
        self.retired = False
        self.started_at = 0.0
        self.heard_at = 0.0
        self.beat = Beat()  # the latest
        self.on_beat: Callable[[Child, Beat], None] = lambda _, __: None
        self.slots_told: int | None = None
        self._luck = random.random()
        self._life: int | None = None
        self._table: int | None = None

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""
        return self.process.pid if self.process is not None and not self.ended.is_set() else None

    async def start(self, launcher: Launcher, variables: Mapping[str, str], handles: Mapping[str, int]) -> None:
        """Start it; `ready` is set when it says so. Raises `OSError`.

        It inherits the reading end of a pipe whose other end only we hold: when we die, it sees the end of it.
        """
        self.ready.clear()
        self.asked = self.killed = self.came_up = False
        self.beat, self.slots_told = Beat(), None
        ready_read, ready_write = os.pipe()
        life_read, life_write = os.pipe()
        try:
            self.process = await launcher.start(
                self.spec.arguments, variables, {**handles, READY_VARIABLE: ready_write, PARENT_VARIABLE: life_read}
            )
        except BaseException:
            os.close(ready_read)
            os.close(life_write)
            raise
        finally:
            os.close(ready_write)
            os.close(life_read)
        self.ended.clear()
        os.set_blocking(life_write, False)
        self._life = life_write
        self.starts += 1
        self.started_at = time.monotonic()
        self._listen(ready_read)

    def _listen(self, handle: int) -> None:
        """Hear the line that says "ready", with the table of a worker in it, and each sign of life that follows."""
        loop = asyncio.get_running_loop()
        process = self.process
        os.set_blocking(handle, False)
        said = b""

        def readable() -> None:
            nonlocal said
            try:
                data = os.read(handle, 4096)
            except BlockingIOError:
                return
            if not data:
                loop.remove_reader(handle)
                os.close(handle)
                return
            if process is not self.process:
                return
            self.heard_at = time.monotonic()
            *lines, said = (said + data).split(b"\n")
            for line in lines:
                if not self.came_up:
                    self._become_ready(os.fsdecode(line))
                elif line:
                    self._hear(line)

        loop.add_reader(handle, readable)

    def _become_ready(self, table: str) -> None:
        self.was_ready = self.came_up = True
        if table:
            with contextlib.suppress(OSError):  # then its death is not explained by a message
                self._table = os.open(table, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        if not self.asked:
            self.ready.set()

    def _hear(self, line: bytes) -> None:
        try:
            self.beat = beats.decode(line)
        except msgspec.MsgspecError:
            log.warning("%s (%d) said what cannot be read: %r", self.spec.name, self.pid or 0, line[:200])
        else:
            self.on_beat(self, self.beat)

    @property
    def state(self) -> str:
        """What an operator is told of it: *ready*, *starting*, *waiting* for its next start, or *FATAL* when its retries are spent."""
        if is_fatal(self.crashes, self.spec.start_retries) and not self.ready.is_set():
            return "FATAL"
        return "ready" if self.ready.is_set() else "starting" if self.pid is not None else "waiting"

    def pause(self) -> float:
        """Return the seconds to wait before its next start."""
        return pause(self.crashes, self.spec.start_retries, luck=self._luck)

    def memory(self) -> int:
        """Return the MiB of memory that it holds, zero if that cannot be told."""
        return memory_of(self.pid) // 2**20

    def tell(self, what: str) -> None:
        """Tell it something over the pipe whose end it would see if we died; one that does not read misses it."""
        if self._life is not None:
            with contextlib.suppress(OSError):
                os.write(self._life, f"{what}\n".encode())

    def running_now(self) -> int:
        """Return how many messages a worker has begun, or had when it died: its table can be read also without its file."""
        return 0 if self._table is None else len(started_by(self._table))

    def signal(self, number: int) -> None:
        """Send a signal if it runs."""
        if self.pid is not None:
            self.asked = self.asked or number == signal.SIGTERM
            self.killed = self.killed or number == signal.SIGKILL
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def silence(self, now: float) -> float:
        """Return the seconds since the last sign of life; none before it was ready or when it was asked to end."""
        return now - self.heard_at if self.pid is not None and self.ready.is_set() and not self.asked else 0.0

    def is_busy(self) -> bool:
        """Tell whether it computes or waits for the disk, as opposed to being frozen."""
        try:
            return psutil.Process(self.pid).status() in (psutil.STATUS_RUNNING, psutil.STATUS_DISK_SLEEP)
        except psutil.Error:
            return False

    async def wait(self) -> int:
        """Wait for the end and return the exit code; a signal is its number, negative."""
        assert self.process is not None
        code = await self.process.wait()
        self.ended.set()
        self.ready.clear()
        if self._life is not None:
            os.close(self._life)
            self._life = None
        return code

    def forget_table(self) -> None:
        """Release the table of the process that ended."""
        if self._table is not None:
            os.close(self._table)
            self._table = None

    async def until_ready(self, seconds: float) -> bool:
        """Wait until it is ready, has ended, or has had so many seconds; tell whether it is ready."""
        ready, ended = asyncio.create_task(self.ready.wait()), asyncio.create_task(self.ended.wait())
        try:
            await asyncio.wait((ready, ended), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ready.cancel()
            ended.cancel()
        return self.came_up  # also one that a message has ended since

    async def stop(self, *, cold: bool = False) -> None:
        """Ask it to end, at once if `cold`, and end it when its grace is over."""
        if self.pid is None:
            return
        self.signal(signal.SIGQUIT if cold and self.spec.role == "worker" else signal.SIGTERM)
        try:
            async with asyncio.timeout(self.spec.grace):
                await self.ended.wait()
        except TimeoutError:
            log.warning("%s (%d) did not end within %g s and is killed", self.spec.name, self.pid or 0, self.spec.grace)
            self.signal(signal.SIGKILL)
            await self.ended.wait()
