"""Keeps the processes of one host running: the engine first up and last down, the others in between.

It holds no user code: it starts children by command line, and signals only enqueue.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from chappe.engine.owner import Ownership
from chappe.errors import AlreadyOwned, ChildFailed
from chappe.settings import Settings
from chappe.supervisor.backoff import CONFIGURATION, crashes_after, pause
from chappe.supervisor.child import Child, ChildSpec

log = logging.getLogger("chappe.supervisor")

_ENGINE_READY = 60.0
_READY = 30.0
_LOOK = 0.5
_BUSY = 5.0  # how many times longer a process may be silent that computes or waits for the disk


def plan(settings: Settings, *, gateway: bool = True, scheduler: bool = True) -> tuple[ChildSpec | None, list[ChildSpec]]:
    """Return the engine, which RabbitMQ needs none of, and the other processes that the settings ask for."""
    grace = settings.grace + 5.0
    others: list[ChildSpec] = []
    if gateway:
        others.append(ChildSpec("gateway", ("gateway",), grace))
    if scheduler:
        others.append(ChildSpec("scheduler", ("scheduler",), 10.0))
    for name, pool in settings.pools.items():
        arguments = ["worker", "--name", name, "-c", str(pool.concurrency), "-Q", ",".join(pool.queues)]
        if pool.exclude:
            arguments += ["-X", ",".join(pool.exclude)]
        for option in ("max_messages", "max_age", "max_memory"):
            value = getattr(pool, option)
            if value is not None:
                arguments += [f"--{option.replace('_', '-')}", str(value)]
        others += [ChildSpec(f"{name}-{number}", tuple(arguments), grace) for number in range(1, pool.processes + 1)]
    return ChildSpec("engine", ("engine",), 10.0, patience=3.0) if settings.is_embedded else None, others


class Supervisor:
    """Runs one engine, if there is one, and the processes around it until it is asked to end."""

    def __init__(self, path: Path, engine: ChildSpec | None, others: Sequence[ChildSpec], status: Path | None = None) -> None:
        """Prepare; raises `AlreadyOwned` if another supervisor runs for this file."""
        try:
            self._lock = Ownership(Path(f"{path}.supervisor"))
        except AlreadyOwned as error:
            raise AlreadyOwned(f"another chappe run is up for {path}: {error}") from None
        self._engine = None if engine is None else Child(engine)
        self._others = [Child(spec) for spec in others]
        self._status = status
        self._environment = dict(os.environ)
        self._stopping = asyncio.Event()
        self._cold = False
        self._failure: ChildFailed | None = None
        self._keepers: list[asyncio.Task[None]] = []
        self._reloading: asyncio.Task[None] | None = None

    @property
    def children(self) -> list[Child]:
        """All processes, the engine first."""
        return [*self._others] if self._engine is None else [self._engine, *self._others]

    async def run(self) -> None:
        """Start everything, keep it running, and return when all has ended in order.

        Raises `ChildFailed` if a process cannot come up because of its configuration.
        """
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stopping.set)
        loop.add_signal_handler(signal.SIGINT, self._interrupted)
        loop.add_signal_handler(signal.SIGQUIT, self._quit)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        for number in (signal.SIGTTIN, signal.SIGUSR1, signal.SIGTSTP, signal.SIGCONT):
            loop.add_signal_handler(number, self._forward, number)
        try:
            if self._engine is not None:
                self._keepers.append(loop.create_task(self._keep(self._engine)))
                await self._until_ready(self._engine, _ENGINE_READY)
            self._keepers += [loop.create_task(self._keep(child)) for child in self._others]
            self._keepers.append(loop.create_task(self._listen()))
            await asyncio.gather(*(self._until_ready(child, _READY) for child in self._others))
            if not self._stopping.is_set():
                ready = len(self.children)
                log.info("1 process is ready" if ready == 1 else f"all {ready} processes are ready")
            await self._stopping.wait()
        finally:
            await self._end()
        if self._failure is not None:
            raise self._failure

    async def _until_ready(self, child: Child, seconds: float) -> None:
        ready = asyncio.create_task(child.ready.wait())
        stop = asyncio.create_task(self._stopping.wait())
        await asyncio.wait((ready, stop), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for task in (ready, stop):
            task.cancel()
        if not child.ready.is_set() and not self._stopping.is_set():
            log.warning("%s is not ready after %g s", child.spec.name, seconds)

    async def _keep(self, child: Child) -> None:
        """Start a process again each time it ends, whatever happens."""
        while not self._stopping.is_set():
            wait = pause(child.crashes)
            if wait:
                await self._pause(wait)
                if self._stopping.is_set():
                    return
            try:
                await child.start(self._environment)
            except OSError as error:
                child.crashes += 1
                log.error("%s cannot be started (%s), again in %g s", child.spec.name, error, pause(child.crashes))
                continue
            log.info("started %s (%d)", child.spec.name, child.pid or 0)
            self._write_status()
            code = await child.wait()
            if not self._stopping.is_set():
                self._ended(child, code, time.monotonic() - child.started_at)

    async def _listen(self) -> None:
        """Kill a process that gives no sign of life any more; it is started again as after any other death."""
        looked = time.monotonic()
        while True:
            await asyncio.sleep(_LOOK)
            now = time.monotonic()
            if now - looked > 2 * _LOOK:  # we were not running ourselves, and could hear nobody
                for child in self.children:
                    child.heard_at = max(child.heard_at, now)
            looked = now
            for child in self.children:
                silence = child.silence(now)
                if silence > child.spec.patience and (silence > _BUSY * child.spec.patience or not child.is_busy()):
                    log.error("%s (%d) gave no sign of life for %.1f s and is killed", child.spec.name, child.pid or 0, silence)
                    child.signal(signal.SIGKILL)

    async def _pause(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except TimeoutError:
            return

    def _ended(self, child: Child, code: int, lived: float) -> None:
        """Decide what the end of a process means, and say it."""
        if code == CONFIGURATION and (not child.was_ready or child is self._engine):
            self._failure = ChildFailed(f"{child.spec.name} cannot run with this configuration; see what it said above")
            self._stopping.set()
            return
        child.crashes = crashes_after(child.crashes, code, lived, asked=child.asked)
        if child.crashes == 0:
            child.planned_ends += 1
            log.info("%s ended as planned after %.1f s and is replaced", child.spec.name, lived)
            return
        log.warning(
            "%s ended with %d after %.1f s; crash %d in a row, again in %g s",
            child.spec.name, code, lived, child.crashes, pause(child.crashes),
        )  # fmt: skip

    async def _end(self) -> None:
        """End the others, then the engine."""
        self._stopping.set()
        if self._reloading is not None:
            self._reloading.cancel()
        await asyncio.gather(*(child.stop(cold=self._cold) for child in self._others))
        if self._engine is not None:
            await self._engine.stop()
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        if self._status is not None:
            self._status.unlink(missing_ok=True)
        self._lock.close()

    def _reload(self) -> None:
        if self._reloading is None or self._reloading.done():
            self._reloading = asyncio.get_running_loop().create_task(self._replace_all())

    async def _replace_all(self) -> None:
        """Replace the processes with user code one by one: the next when the successor of the one before is ready."""
        for child in self._others:
            log.info("reloading %s", child.spec.name)
            child.ready.clear()
            await child.stop()
            await self._until_ready(child, _READY + child.spec.grace)

    def _interrupted(self) -> None:
        """The first Ctrl-C ends in order, the second at once."""
        if self._stopping.is_set():
            self._quit()
        self._stopping.set()

    def _quit(self) -> None:
        self._cold = True
        self._stopping.set()
        self._forward(signal.SIGQUIT)

    def _forward(self, number: int) -> None:
        """Hand a signal on to the workers: the others have no use for it."""
        for child in self._others:
            if child.spec.arguments[0] == "worker":
                child.signal(number)

    def _write_status(self) -> None:
        """Say who runs, in a file beside the database, for `chappe status` and for tests."""
        if self._status is None:
            return
        lines = [f"{c.spec.name}\t{c.pid or ''}\t{c.starts}\t{c.crashes}\t{c.planned_ends}" for c in self.children]
        draft = Path(f"{self._status}.new")
        try:
            draft.touch(mode=0o600)
            draft.write_text("\n".join([f"supervisor\t{os.getpid()}\t1\t0\t0", *lines]) + "\n")
            draft.replace(self._status)
        except OSError as error:
            log.warning("cannot write %s (%s); the processes run on", self._status, error)
