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
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import msgspec

from chappe.app import App, Setting
from chappe.bus.portal import Portal
from chappe.engine.server import Engine
from chappe.engine.serving import serve
from chappe.engine.wire import Posted
from chappe.errors import ResultTimeout
from chappe.messages.envelope import Envelope, Receipt
from chappe.messages.message import Command, Event, Message
from chappe.settings import Settings
from chappe.store.contract import Letter
from chappe.worker.running_table import RunningTable
from chappe.worker.worker import Worker

M = TypeVar("M", bound=Message)
R = TypeVar("R")

_SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - a folder of our own is made in it
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
        self._provided: dict[Any, Any] = {}
        self._stored: list[Envelope] = []
        self._clock = 0.0

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
        """Send a command, drain, and return its result.

        Raises `CommandFailed` if it is a dead letter, `ResultTimeout` if it is delayed (a retry, perhaps).
        """
        if command.__spec__.inline:
            return self.app.ask(command, timeout=timeout)
        return self._worker.run(self._ask(command, timeout))

    def drain(self, *, timeout: float = 10.0) -> int:
        """Handle everything that is ready, and what follows from it, and say how many attempts that were.

        What is delayed, retries included, waits for `advance`. Raises `TimeoutError` if handlers are still
        running after `timeout` seconds.
        """
        return self._worker.run(self._drain(timeout))

    def advance(self, seconds: float) -> None:
        """Let seconds pass at once: what is due then becomes ready, to be handled by the next `drain`."""
        self._clock += seconds
        self._worker.run(self._look())

    def provide(self, kind: type[R], instance: R) -> None:
        """Return handlers this instance wherever they ask for the type, until the block ends."""
        self._provided[kind] = instance
        self._worker.run(self.app.bus.close())  # what was bound before must ask again
        self._put()

    # --- looking

    @property
    def now(self) -> float:
        """The time by which delays are judged, in seconds since the epoch."""
        return self._clock

    def sent(self, kind: type[M]) -> list[M]:
        """Return the messages of a type that were stored so far, in order; for merged ones, what each became."""
        names = {kind.__spec__.name, *kind.__spec__.aliases}
        return [self.app.bus.decoder_of(kind, e.content_type)(e.body) for e in list(self._stored) if e.type in names]

    @property
    def dead(self) -> list[Letter]:
        """The dead letters, with their reasons and errors."""
        return self._worker.run(self._letters())

    def depth(self, queue: str) -> tuple[int, int]:
        """Tell how many messages of a queue are ready, and how many delayed. Raises `NotFound`."""
        return self._worker.run(self._depth(queue))

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
        self._clock = time.time()
        self._stored.clear()
        shared = _SHARED_MEMORY if _SHARED_MEMORY.is_dir() else None
        folder = Path(exits.enter_context(tempfile.TemporaryDirectory(prefix="chappe-", dir=shared)))
        self._path = folder / "chappe.db"
        self._serve()
        self._worker = Portal()
        before = app.setting
        exits.enter_context(app.registry.lasting())
        exits.callback(self._put_back, before)
        exits.callback(lambda: self._worker.close(app.aclose()))
        exits.callback(app.close)
        app.configure(Settings(broker=f"sqlite:///{self._path}"), may_own_file=False)
        app.bus.set_threads(self._concurrency)

    def _put_back(self, before: Setting) -> None:
        self.app.setting = before

    def _serve(self) -> None:
        """Run the engine in a thread of its own, with our clock, noting what it stores."""
        portal = Portal()
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

    def _record(self, engine: Engine) -> None:
        publish = engine.verbs.intake.publish

        def recording(posted: Sequence[Posted]) -> list[Any]:
            receipts = publish(posted)
            for one, receipt in zip(posted, receipts, strict=True):
                if receipt[1:2] in ((), ("stored",), ("merged",)):
                    self._stored.append(_decode_envelope(one.envelope))
            return receipts

        engine.verbs.intake.publish = recording

    # --- in the worker's thread

    def _put(self) -> None:
        for kind, instance in self._provided.items():
            self.app.providers.put(kind, instance)

    async def _ask(self, command: Command, timeout: float) -> Any:  # noqa: ASYNC109 - the word users know
        asked = asyncio.ensure_future(self.app.aask(command, timeout=timeout))
        await asyncio.sleep(0)
        await self._drain(timeout)
        await asyncio.wait((asked,), timeout=0.2)
        if asked.done():
            return asked.result()
        asked.cancel()
        raise ResultTimeout(
            f"{command.__spec__.name} is not done after everything ready was handled; is it delayed or retried? see t.advance"
        )

    async def _drain(self, timeout: float) -> int:  # noqa: ASYNC109 - the word users know
        app = self.app
        connection = await app.connection()
        queues = app.registry.consumed_queues()
        if not queues:
            return 0
        self._put()
        table = RunningTable(self._path.parent / "slots", self._concurrency)
        async with connection.broker.consume(queues, prefetch=2 * self._concurrency) as consumer:
            worker = Worker(app.bus, consumer, merging=app.merger, ports=await app.ports(), concurrency=self._concurrency, table=table)
            running = asyncio.ensure_future(worker.run())
            try:
                async with asyncio.timeout(timeout):
                    await self._until_idle(worker)
            except TimeoutError:
                raise TimeoutError(f"{worker.busy} handlers are still running after {timeout:g} s") from None
            finally:
                consumer.stop()
                await worker.stop(0.0)
                await running
                table.close()
            return worker.done + worker.failed

    async def _until_idle(self, worker: Worker) -> None:
        """Wait until nothing runs, and another look at the queues shows the same as the one before."""
        before: Any = None
        while True:
            seen = await self._look()
            if seen == before and not worker.busy and not any(queue["running"] for queue in seen):
                return
            before = seen
            await asyncio.sleep(0.002)

    async def _look(self) -> list[dict[str, Any]]:
        connection = await self.app.connection()
        return (await connection.store.overview())["queues"]

    async def _letters(self) -> list[Letter]:
        connection = await self.app.connection()
        return await connection.store.letters(limit=1000)

    async def _depth(self, queue: str) -> tuple[int, int]:
        connection = await self.app.connection()
        found = await connection.broker.depth(queue)
        return found.ready, found.delayed


__all__ = ["Trial", "testing"]
