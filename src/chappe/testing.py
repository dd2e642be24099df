"""An application under test: real handlers, middleware and engine, no processes, and a clock that stands still.

::

    def test_a_sync_pushes_to_each_channel():
        with testing(app) as t:
            t.provide(Bookings, FakeBookings())
            t.send(SyncProperty(property_id=42, what={"rates"}))
            t.drain()
            assert [push.channel for push in t.sent(PushCalendar)] == ["alpine", "nimbus"]

The engine runs on a temporary file in a thread of its own, the worker in another, so that `app.send(…)` in a test
and in a handler takes the same road as in production. In asynchronous tests write `async with testing(app) as t`;
`t.drain()` stays as it is, for the handlers run in the worker's thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sys
import tempfile
import threading
import traceback
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent import futures
from concurrent.futures import Future
from concurrent.futures import thread as pools
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar, cast

import msgspec

from chappe.app import App
from chappe.bus.draft import Draft, new_id
from chappe.bus.portal import Portal
from chappe.clocks import steady, wall
from chappe.connection import Connection, Setting
from chappe.engines.contract.broker import Delivery
from chappe.engines.contract.fleet import QueueStatus
from chappe.engines.contract.letters import Letter
from chappe.engines.contract.results import ENDED
from chappe.engines.file.server import Engine
from chappe.engines.file.serving import serve
from chappe.engines.file.wire import Posted
from chappe.errors import NoHandler, ResultTimeout, UnknownMessage
from chappe.messages.codec import decoder
from chappe.messages.envelope import Envelope, Receipt
from chappe.messages.message import Command, Event, Message
from chappe.settings import Settings
from chappe.triggers.scheduler import Scheduler
from chappe.words import counted
from chappe.worker.plans import Plan, Plans
from chappe.worker.running_table import RunningTable
from chappe.worker.worker import Worker

M = TypeVar("M", bound=Message)
R = TypeVar("R")

_SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - a folder of our own is made in it
_MARGIN: Final = 1.0
_OURS: Final = f"{Path(__file__).parent}/"
_CALLERS: Final = (f"{_OURS}worker/", f"{_OURS}bus/handler.py")
_decode_envelope: Final[Callable[[Any], Envelope]] = msgspec.msgpack.Decoder(Envelope).decode


def testing(app: App, *, concurrency: int = 1) -> Trial:  # noqa: PT028 - it is no test
    """Return the context manager that runs an application without processes.

    With `concurrency` 1 messages are handled one after the other, in the same order in each run. A handler that
    waits for another message (`aask`) needs more.
    """
    return Trial(app, concurrency)


testing.__test__ = False  # type: ignore[attr-defined] - pytest collects what is called test*


class Trial:
    """One application under test, from entering the `with` block to leaving it."""

    def __init__(self, app: App, concurrency: int) -> None:
        self.app = app
        self._concurrency = concurrency
        self._exits = contextlib.ExitStack()
        self._stored: list[Envelope] = []
        self._clock = 0.0
        self._is_draining = False
        self._gave_up = False
        self._pulse: Future[None] | None = None  # done if the worker's event loop has moved since it was last asked for something
        self._scheduler: Scheduler | None = None
        self._scheduled = 0

    # --- acting

    def send(
        self, message: Message, *, delay: float | None = None, priority: int | None = None, idempotency_key: str | None = None
    ) -> Receipt:
        """Send a message as `App.send` does; it waits for `drain`."""
        return self.app.send(message, delay=delay, priority=priority, idempotency_key=idempotency_key)

    def publish(self, event: Event) -> Receipt:
        """Publish an event; its subscribers wait for `drain`."""
        return self.app.publish(event)

    def ask(self, command: Command, *, timeout: float = 10.0) -> Any:
        """Send a command, drain, and return its result, as `App.ask` and `App.aask` do in the block too.

        Raises `CommandFailed` if it is a dead letter, `ResultTimeout` if it is delayed (a retry, perhaps).
        """
        return self.app.ask(command, timeout=timeout)

    def drain(self, *, to_the_end: bool = False, slots: int = 1, timeout: float = 10.0) -> int:
        """Handle everything that is ready, and what follows from it, and say how many attempts that were.

        What is delayed, retries included, waits for `advance`; with `to_the_end` the clock moves from one due time to the next until
        nothing is left, and passes the next `slots` slots of each schedule. Raises what keeps a message from being handled, such as
        a missing provider, and `TimeoutError` if there is no end after `timeout` seconds.
        """
        return self._run(self._drain_to_the_end(slots, timeout) if to_the_end else self._drain(timeout), timeout)

    def advance(self, seconds: float) -> None:
        """Let seconds pass at once: what is due then becomes ready, to be handled by the next `drain`.

        Schedules go on as after seconds in which no scheduler ran: what is sent of missed slots, `misfire` says.
        """
        self._run(self._advance(seconds))

    def provide(self, kind: type[R], instance: R) -> None:
        """Return handlers this instance wherever they ask for the type, until the block ends."""
        self.app.providers.put(kind, instance)
        self.app.bus.forget_bound()

    # --- looking

    @property
    def now(self) -> float:
        """The time by which everything is judged in the block, in seconds since the epoch."""
        return self._clock

    def sent(self, kind: type[M]) -> list[M]:
        """Return the messages of a type that were stored so far, in order; for merged ones, what each became."""
        names = {kind.__spec__.name, *kind.__spec__.aliases}
        return [decoder(kind, e.content_type)(e.body) for e in list(self._stored) if e.type in names]

    @property
    def dead(self) -> list[Letter]:
        """The dead letters, with their reasons and errors."""
        return self._run(self._asked(lambda connection: connection.store.letters(limit=1000)))

    def depth(self, queue: str) -> tuple[int, int]:
        """Tell how many messages of a queue are ready, and how many delayed. Raises `NotFound`."""
        found = self._run(self._asked(lambda connection: connection.broker.depth(queue)))
        return found.ready, found.delayed

    # --- entering and leaving

    def __enter__(self) -> Self:
        self.app.close()
        try:
            self._start()
        except BaseException:
            self._exits.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._exits.close()

    async def __aenter__(self) -> Self:
        await self.app.aclose()
        await asyncio.to_thread(self.__enter__)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.app.aclose()
        await asyncio.to_thread(self._exits.close)

    def _start(self) -> None:
        app, exits = self.app, self._exits
        self._clock = wall()
        self._scheduler = None
        self._stored.clear()
        shared = _SHARED_MEMORY if _SHARED_MEMORY.is_dir() else None
        folder = Path(exits.enter_context(tempfile.TemporaryDirectory(prefix="chappe-", dir=shared)))
        self._path = folder / "chappe.db"
        self._serve()
        self._worker = Portal()
        before = app.connections.setting
        exits.enter_context(app.registry.lasting())
        exits.callback(self._put_back, before, app.bus.clock)
        app.bus.clock = lambda: self._clock
        exits.callback(self._close)
        exits.callback(app.close)
        app.connections.setting = Setting(
            Settings(broker=f"sqlite:///{self._path}", large_body=32 * 1024 * 1024), may_own_file=False, handle=self._handle
        )
        app.bus.set_threads(self._concurrency)

    def _run(self, work: Coroutine[Any, Any, R], timeout: float = 10.0) -> R:
        """Run in the worker's thread; raises `TimeoutError` if its event loop does not move for so long."""
        if self._is_stuck():
            work.close()
            raise TimeoutError(f"the event loop of the handlers is still blocked{_standing()}")
        future = self._worker.submit(work)
        while not future.done():
            self._pulse = self._worker.submit(asyncio.sleep(0))
            if not futures.wait((future,), timeout).done and self._is_stuck():
                self._gave_up = future.cancel()
                raise TimeoutError(f"1 handler is still running after {timeout:g} s{_standing()}")
        return future.result()

    def _is_stuck(self) -> bool:
        return self._pulse is not None and not futures.wait((self._pulse,), _MARGIN).done

    def _close(self) -> None:
        """End the worker's thread, or leave it, a daemon, to what keeps it."""
        end = self._worker.leave if self._is_stuck() else self._worker.close
        end(self._end())

    async def _end(self) -> None:
        if self._gave_up and (others := asyncio.all_tasks() - {asyncio.current_task()}):  # a drain that ends now that nothing keeps it
            await asyncio.wait(others, timeout=_MARGIN)
        await self.app.aclose()

    def _put_back(self, before: Setting, clock: Callable[[], float]) -> None:
        self.app.connections.setting, self.app.bus.clock = before, clock
        self.app.providers.put_nothing()
        self.app.bus.set_threads()

    def _serve(self) -> None:
        """Run the engine in a thread of its own, with our clock, noting what it stores."""
        portal = self._engine_portal = Portal()
        served: list[asyncio.Task[None]] = []
        engines: list[Engine] = []

        async def start() -> None:
            engine = Engine(self._path, now=lambda: self._clock, grace=0.0)
            engines.append(engine)
            self._record(engine)
            ready = asyncio.Event()
            served.append(asyncio.create_task(serve(self._path, ready.set, engine=engine)))
            await ready.wait()

        async def stop() -> None:
            for connection in [c for engine in engines for c in engine.connections]:
                connection.abort()  # its client is closed by now; the socket shall not outlive the loop
            for task in served:
                task.cancel()
            await asyncio.gather(*served, return_exceptions=True)
            for _ in range(3):
                await asyncio.sleep(0)

        self._exits.callback(lambda: portal.close(stop()))
        portal.run(start())
        (self._engine,) = engines

    def _record(self, engine: Engine) -> None:
        publish = engine.verbs.intake.publish

        def recording(posted: Sequence[Posted]) -> list[Any]:
            receipts, fed = publish(posted), {subscription.queue for subscription in self.app.subscriptions}
            for one, receipt in zip(posted, receipts, strict=True):
                if receipt[1:2] in ((), ("stored",), ("merged",)) and one.routing_key not in fed:
                    self._stored.append(_decode_envelope(one.envelope))
            return receipts

        engine.verbs.intake.publish = recording

    # --- in the worker's thread

    async def _handle(self, message_id: str, timeout: float) -> None:  # noqa: ASYNC109 - the word users know
        """Drain for somebody who waits for a result, unless it is a handler: then a drain is at work already."""
        if not self._is_draining:
            await asyncio.to_thread(self._run, self._drain_for(message_id, timeout), timeout)

    async def _drain_for(self, message_id: str, timeout: float) -> None:  # noqa: ASYNC109 - the word users know
        await self._drain(timeout)
        state = await (await self.app.connection()).store.state(message_id)
        if state.state not in ENDED:
            raise ResultTimeout(
                f"{state.type} is {state.state} after everything ready was handled; is it delayed or retried? see t.advance and "
                "t.drain(to_the_end=True)"
            )

    async def _drain_to_the_end(self, slots: int, timeout: float) -> int:  # noqa: ASYNC109 - the word users know
        until = steady() + timeout
        count, left = await self._drain(timeout), dict[str, int]()
        while (moment := await self._next(left, slots)) is not None:
            if steady() > until:
                raise TimeoutError(
                    f"something is still due after {timeout:g} s: what sends itself again with a delay has no end; use t.advance"
                )
            await self._set_clock(moment)
            count += await self._drain(timeout)
        return count

    async def _next(self, left: dict[str, int], slots: int) -> float | None:
        """Return when something is due next, and pass over the slots of schedules that have had theirs."""
        due: dict[str, float] = {}
        store = (await self.app.connection()).store
        for schedule in self.app.schedules:
            due[schedule.name] = schedule.trigger.after(max(await store.last_fired(schedule.name) or 0.0, self._clock))
        wanted = {name: slot for name, slot in due.items() if left.setdefault(name, slots) > 0}
        moment = min([self._engine.ledger.turn.next_due, *wanted.values()])
        if moment == float("inf"):
            return None
        for name, slot in due.items():
            if name not in wanted:
                await store.fire(name, moment, ())
            elif slot <= moment:
                left[name] -= 1
        return moment

    async def _advance(self, seconds: float) -> None:
        await self._fire_schedules()  # so that they count from before
        await self._set_clock(self._clock + seconds)

    async def _set_clock(self, moment: float) -> None:
        self._clock = moment
        await asyncio.wrap_future(self._engine_portal.submit(_pruned(self._engine)))
        await self._fire_schedules()
        await self._look()

    async def _fire_schedules(self) -> None:
        app = self.app
        if not app.schedules:
            return
        if self._scheduler is None or self._scheduled != len(app.schedules):
            self._scheduled = len(app.schedules)
            self._scheduler = Scheduler(
                app.schedules, (await app.connection()).store, application=app.name, merging=app.merger, now=lambda: self._clock,
                prepare=lambda message: app.bus.prepare(message, Draft(new_id())),
            )  # fmt: skip
        await self._scheduler.turn()

    async def _drain(self, timeout: float) -> int:  # noqa: ASYNC109 - the word users know
        app = self.app
        connection = await app.connection()
        await self._fire_schedules()
        queues = app.registry.consumed_queues()
        if not queues:
            return 0
        table = RunningTable(self._path.parent / "slots", self._concurrency + app.registry.waiting_places)
        async with connection.broker.consume(queues, prefetch=2 * self._concurrency) as consumer:
            worker = _Worker(app.bus, consumer, merging=app.merger, ports=await app.ports(), concurrency=self._concurrency, table=table)
            running = asyncio.ensure_future(worker.run())
            self._is_draining = True
            try:
                async with asyncio.timeout(timeout):
                    await self._until_idle(worker)
            except TimeoutError:
                are = "is" if worker.busy == 1 else "are"
                raise TimeoutError(f"{counted(worker.busy, 'handler')} {are} still running after {timeout:g} s{_standing()}") from None
            finally:
                self._is_draining = False
                consumer.stop()
                await worker.stop(0.0)
                await running
                table.close()
            return worker.done + worker.failed

    async def _until_idle(self, worker: _Worker) -> None:
        """Wait until nothing runs, and two looks show the same queues while the worker asked for messages and got none."""
        before: Any = None
        while True:
            if worker.plans.broken is not None:
                raise worker.plans.broken
            fed = [await subscription.turn() for subscription in self.app.subscriptions]
            asked = worker.asked
            seen = await self._look()
            await asyncio.sleep(0)  # what came with the answer reaches the worker first
            is_idle = (
                asked and asked == worker.asked and not worker.busy and not any(fed) and sum(queue.running for queue in seen) == worker.held
            )
            if is_idle and (seen, asked) == before and not worker.leave_if_due(self._clock):
                return
            before = (seen, asked)
            await asyncio.sleep(0.002)

    async def _look(self) -> list[QueueStatus]:
        connection = await self.app.connection()
        return (await connection.store.overview()).queues

    async def _asked(self, work: Callable[[Connection], Awaitable[R]]) -> R:
        return await work(await self.app.connection())


class _Worker(Worker):
    """A worker that keeps what a message cannot be handled for: in production it may pass, in a test it is an error."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._plans = self.plans = _Plans(self._bus, 0.0)
        self._leaving: list[tuple[float, Callable[[], None]]] = []

    def _leave_later(self, seconds: float, leave: Callable[[], None]) -> None:
        self._leaving.append((self._bus.now() + seconds, leave))

    def leave_if_due(self, now: float) -> bool:
        """Handle what waits together and is due by the clock of the test, once nothing more can come; tell whether there is any."""
        due = [leave for moment, leave in self._leaving if moment <= now]
        self._leaving = [later for later in self._leaving if later[0] > now]
        for leave in due:
            leave()
        return bool(due)


class _Plans(Plans):
    broken: Exception | None = None

    async def find(self, delivery: Delivery) -> Plan:
        try:
            return await super().find(delivery)
        except (UnknownMessage, NoHandler, msgspec.DecodeError):
            raise
        except Exception as error:  # also what a provider of the user's raises
            self.broken = error
            raise


def _standing() -> str:
    """Say where the code of handlers stands, and have no thread that never comes back from it keep this process from its end."""
    said, frames = list[str](), cast("Any", sys)._current_frames()  # noqa: SLF001 - documented, in spite of its name
    for thread in threading.enumerate():
        stack = traceback.extract_stack(frames.get(thread.ident))
        begun = itertools.dropwhile(lambda frame: not frame.filename.startswith(_CALLERS), stack)
        if handler := list(itertools.dropwhile(lambda frame: frame.filename.startswith(_OURS), begun)):
            trace = "".join(traceback.format_list(handler)).rstrip()
            said.append(f"; {handler[0].name} stands here:\n{trace}")
            cast("Any", pools)._threads_queues.pop(thread, None)  # noqa: SLF001 - nothing public tells it not to wait at the end
    return "".join(said)


async def _pruned(engine: Engine) -> None:
    engine.prune()


__all__ = ["Trial", "testing"]
