"""Keeps the processes of one host running: the engine first up and last down, the others in between.

It holds no user code: it has processes started by a launcher, and signals only enqueue.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, Final

from chappe.alerting import alert
from chappe.engines.file.owner import Ownership
from chappe.engines.file.private_files import write_private
from chappe.errors import AlreadyOwned, ChappeError, ChildFailed
from chappe.settings import TOKEN_VARIABLE, Settings, without_token
from chappe.supervisor.backoff import CONFIGURATION, crashes_after, is_fatal
from chappe.supervisor.child import Child
from chappe.supervisor.following import Following
from chappe.supervisor.launcher import LISTEN_VARIABLE, ExecLauncher
from chappe.supervisor.listening import listen
from chappe.supervisor.plan import ENGINE, ChildSpec, Pools, plan, suspects_spec
from chappe.supervisor.release import Release
from chappe.supervisor.replacement import refuse_other_place, replace_all
from chappe.supervisor.tuning import Tuning

log = logging.getLogger("chappe.supervisor")

_ENGINE_READY: Final = 60.0
_READY: Final = 30.0
_LOOK: Final = 0.5
_BUSY: Final = 5.0  # how many times longer a process may be silent that computes or waits for the disk
_QUIET: Final = 60.0  # seconds without a death after which a pool needs no process for suspects any more


class Supervisor:
    """Runs one engine, if there is one, and the processes around it until it is asked to end."""

    def __init__(
        self,
        settings: Settings,
        *,
        load: Callable[[], Settings] | None = None,
        gateway: bool = True,
        scheduler: bool = True,
        status: Path | None = None,
    ) -> None:
        """Prepare; `load` reads the settings again for a reload. Raises `AlreadyOwned` if another supervisor runs for this file."""
        path = settings.path
        try:
            self._lock = Ownership(Path(f"{path}.supervisor"))
        except AlreadyOwned as error:
            raise AlreadyOwned(f"another chappe run is up for {path}: {error}") from None
        self._load = load or (lambda: settings)
        self._gateway = gateway
        self._scheduler = scheduler
        self._status = status
        self._environment = without_token(os.environ)
        self._exec = ExecLauncher(self._environment)
        self._release = Release(settings, self._environment, gateway=gateway)
        self._engine = Child(ENGINE) if settings.is_file else None
        self._children: list[Child] = []
        self._listener: socket.socket | None = None
        self._stopping = asyncio.Event()
        self._reload_wanted = asyncio.Event()
        self._cold = False
        self._failure: ChappeError | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._first = frozenset[Child]()  # those whose first start shows whether the configuration is right
        self._changing = asyncio.Lock()  # a reload and what changes pools come one after the other
        self.pools = Pools()
        self.tuning = Tuning(self)
        self.reload = self._reload_wanted.set
        self._deaths: dict[str, float] = {}  # when a worker of a pool last died while it ran a message

    @property
    def settings(self) -> Settings:
        """Those of the release that runs."""
        return self._release.settings

    @property
    def children(self) -> list[Child]:
        """All processes, the engine first."""
        return [*self._children] if self._engine is None else [self._engine, *self._children]

    async def run(self) -> None:
        """Start everything, keep it running, and return when all has ended in order.

        Raises `ChildFailed` if a process cannot come up because of its configuration, `InvalidSettings` if the port cannot be had.
        """
        self._take_signals()
        try:
            settings = self._release.settings
            if self._engine is not None:
                self._spawn(self._run(self._engine))
            opening = self._spawn(self._open(self._release))
            if self._gateway:
                self._listener = await listen(settings.host, settings.port, self._stopping)
            if self._engine is not None:
                await self._until_ready(self._engine, _ENGINE_READY)
            await opening
            self._spawn(self._watch())
            if not self._stopping.is_set():
                await self._begin()
            await self._stopping.wait()
        finally:
            await self._end()
        if self._failure is not None:
            raise self._failure

    def _take_signals(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stopping.set)
        loop.add_signal_handler(signal.SIGINT, self._interrupted)
        loop.add_signal_handler(signal.SIGQUIT, self._quit)
        loop.add_signal_handler(signal.SIGHUP, self._reload_wanted.set)
        for number in (signal.SIGTTIN, signal.SIGUSR1, signal.SIGTSTP, signal.SIGCONT):
            loop.add_signal_handler(number, self._forward, number)

    async def _open(self, release: Release) -> None:
        """Have the application imported, unless we are asked to end meanwhile."""
        try:
            await self._unless_stopping(release.open())
        except (ChildFailed, OSError) as error:
            self._failure = error if isinstance(error, ChildFailed) else ChildFailed(f"the application cannot be started: {error}")
            self._stopping.set()

    async def _begin(self) -> None:
        specs = self._plan(self._release)
        started = [self.add(spec) for spec in specs]
        self._first = frozenset(started)
        await asyncio.gather(*(self._until_ready(child, _READY) for child in started))
        if not self._stopping.is_set():
            ready = len(self.children)
            log.info("1 process is ready" if ready == 1 else f"all {ready} processes are ready")
        self._spawn(self._reload())
        self._spawn(Following(self, self.tuning).follow())
        self._spawn(self.tuning.govern())

    def _plan(self, release: Release) -> list[ChildSpec]:
        apart = [suspects_spec(release.settings, child.spec.pool or "") for child in self.running if child.spec.is_for_suspects]
        counts = self.pools.counts(release.settings)
        return [*filter(None, apart), *plan(release.settings, counts, gateway=self._gateway, scheduler=self._scheduler)]

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _until_ready(self, child: Child, seconds: float) -> None:
        await self._unless_stopping(child.ready.wait(), seconds)
        if not child.ready.is_set() and not self._stopping.is_set():
            log.warning("%s is not ready after %g s", child.spec.name, seconds)

    async def _unless_stopping(self, work: Coroutine[Any, Any, Any], seconds: float | None = None) -> None:
        """Wait for something, for some seconds at most and until we are asked to end, and cancel it then. Raises what it raises."""
        working, stopping = asyncio.ensure_future(work), asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait((working, stopping), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            working.cancel()
            stopping.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await working

    # --- keeping

    def add(self, spec: ChildSpec, release: Release | None = None) -> Child:
        """Start a process of a release, and keep it running until it is retired."""
        child = Child(spec, release or self._release)
        child.on_beat = self.tuning.hear
        for before in self._children:
            if before.spec.name == spec.name:
                child.starts, child.planned_ends = before.starts, before.planned_ends
        self._children.append(child)
        self._spawn(self._run(child))
        return child

    async def fit(self) -> None:
        """Start the processes that pools lack, and retire those that they have too many of, the last ones first."""
        async with self._changing:
            if self._stopping.is_set():
                return
            wanted = {spec.name: spec for spec in self._plan(self._release)}
            there = {child.spec.name: child for child in self.running}
            for name in [name for name in there if name not in wanted]:
                self._spawn(self.retire(there[name]))
            for spec in [spec for name, spec in wanted.items() if name not in there]:
                self.add(spec)

    async def retire(self, child: Child) -> None:
        """End a process that is not needed any more."""
        child.retired = True
        await child.stop()

    async def _run(self, child: Child) -> None:
        """Start a process again each time it ends, whatever happens."""
        release = child.release
        while not self._stopping.is_set() and not child.retired:
            if wait := child.pause():
                await self._unless_stopping(asyncio.sleep(wait))
                if self._stopping.is_set() or child.retired:
                    break
            launcher = self._exec if release is None else release.launcher
            try:
                await child.start(launcher, *self._equipment(child))
            except OSError as error:
                self._crashed(child, child.crashes + 1, f"{child.spec.name} cannot be started ({error})")
                if release is not None and not self._stopping.is_set():
                    await release.restore()
                continue
            if child.retired or self._stopping.is_set():
                child.signal(signal.SIGTERM)
            log.info("started %s (%d)", child.spec.name, child.pid or 0)
            self._write_status()
            code = await child.wait()
            if not self._stopping.is_set() and not child.retired:
                self._ended(child, code, time.monotonic() - child.started_at)
            child.forget_table()
        if child in self._children:
            self._children.remove(child)
        if not self._stopping.is_set():
            self._write_status()

    def _equipment(self, child: Child) -> tuple[dict[str, str], dict[str, int]]:
        """Return the variables and descriptors that only this process gets: the gateway alone knows the token."""
        if child.spec.role != "gateway" or child.release is None:
            return dict(child.spec.variables), {}
        token = child.release.settings.token
        variables = {TOKEN_VARIABLE: token} if token else {}
        return variables, {} if self._listener is None else {LISTEN_VARIABLE: self._listener.fileno()}

    def _ended(self, child: Child, code: int, lived: float) -> None:
        """Decide what the end of a process means, and say it; only the engine, and what never was ready, stop all others."""
        if code == CONFIGURATION and (child is self._engine or (child in self._first and child.starts == 1 and not child.was_ready)):
            self._failure = ChildFailed(f"{child.spec.name} cannot run with this configuration; see what it said above")
            self._stopping.set()
            return
        running = child.running_now()
        by_others = child.came_up and not child.killed and code == -signal.SIGKILL
        crashes = crashes_after(child.crashes, code, lived, asked=child.asked, by_others=by_others)
        if crashes and running:
            log.warning("%s ended with %d after %.1f s while it ran messages, and is replaced at once", child.spec.name, code, lived)
            self._isolate(child)
            return
        if crashes:
            self._crashed(child, crashes, f"{child.spec.name} ended with {code} after {lived:.1f} s")
            return
        child.crashes = 0
        child.planned_ends += 1
        log.info("%s ended as planned after %.1f s and is replaced", child.spec.name, lived)

    def _crashed(self, child: Child, crashes: int, what: str) -> None:
        """Count one more crash in a row and say when it is tried again; somebody is told when its retries are spent."""
        child.crashes = crashes
        log.warning("%s; crash %d in a row, again in %.1f s", what, crashes, child.pause())
        retries = child.spec.start_retries
        if is_fatal(crashes, retries) and not is_fatal(crashes - 1, retries):
            text = f"{child.spec.name} is FATAL: {crashes} starts in a row failed; it is tried again once a minute"
            log.error("%s", text)
            self._spawn(alert(self.settings.alert, text))

    def _isolate(self, child: Child) -> None:
        """Have a process beside a pool run the messages that a worker died with, one by one."""
        pool = child.spec.pool
        if pool is None:
            return
        self._deaths[pool] = time.monotonic()
        assert child.release is not None
        spec = suspects_spec(child.release.settings, pool)
        if spec is not None and not any(other.spec.name == spec.name for other in self.running):
            self.add(spec, child.release)

    async def _watch(self) -> None:
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
                if silence > child.spec.silence and (silence > _BUSY * child.spec.silence or not child.is_busy()):
                    log.error("%s (%d) gave no sign of life for %.1f s and is killed", child.spec.name, child.pid or 0, silence)
                    child.signal(signal.SIGKILL)
                limit = child.spec.memory_limit
                if limit is not None and (memory := child.memory()) > limit:
                    what = f"{child.spec.name} ({child.pid or 0}) holds {memory} MiB"
                    log.error("%s, more than its memory_limit of %d, and is killed", what, limit)
                    child.signal(signal.SIGKILL)
                if child.spec.is_for_suspects and not child.retired:
                    self._retire_if_unneeded(child, now)

    def _retire_if_unneeded(self, child: Child, now: float) -> None:
        """End a process for suspects when no worker has died for a while, and it had nothing to run."""
        pool = child.spec.pool or ""
        if child.running_now():
            self._deaths[pool] = max(now, self._deaths.get(pool, now))  # others may wait for their turn
        elif now - self._deaths.get(pool, 0.0) > _QUIET:
            self._spawn(self.retire(child))

    # --- a new release

    async def _reload(self) -> None:
        """Replace the release each time that is asked for; one that cannot run is refused, and the old one goes on."""
        while True:
            await self._reload_wanted.wait()
            self._reload_wanted.clear()
            try:
                async with self._changing:
                    await self._replace_release()
            except (ChappeError, OSError) as error:
                log.error("the reload is refused, nothing was changed: %s", error)
            except Exception:  # the next reload must be heard, whatever went wrong with this one
                log.exception("the reload failed")

    async def _replace_release(self) -> None:
        settings = self._load()
        refuse_other_place(self._release.settings, settings)
        release, old = Release(settings, self._environment, gateway=self._gateway), self._release
        await release.open()
        if await replace_all(self, old, release, self._plan(release)):
            self._release = release
            await old.close()
            log.info("all %d processes run the new release", len(self._children))
        else:
            await release.close()

    @property
    def running(self) -> Sequence[Child]:
        """The processes that hold the application and are not retired."""
        return [child for child in self._children if not child.retired]

    # --- the end

    async def _end(self) -> None:
        """End the others, then the engine."""
        self._stopping.set()
        await asyncio.gather(*(child.stop(cold=self._cold) for child in self._children))
        if self._engine is not None:
            await self._engine.stop()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._release.close()
        if self._listener is not None:
            self._listener.close()
        if self._status is not None:
            self._status.unlink(missing_ok=True)
        self._lock.close()

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
        for child in self._children:
            if child.spec.role == "worker":
                child.signal(number)

    def _write_status(self) -> None:
        """Say who runs, in a file beside the database, for `chappe status` and for tests."""
        if self._status is None:
            return
        lines = [f"{c.spec.name}\t{c.pid or ''}\t{c.starts}\t{c.crashes}\t{c.planned_ends}" for c in self.children if not c.retired]
        try:
            write_private(self._status, "\n".join([f"supervisor\t{os.getpid()}\t1\t0\t0", *lines]) + "\n")
        except OSError as error:
            log.warning("cannot write %s (%s); the processes run on", self._status, error)
