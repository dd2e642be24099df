"""The application: declares, wires, and hands messages over; it does nothing itself."""

from __future__ import annotations

import asyncio
import logging
import re
from asyncio.events import _get_running_loop  # listed in its __all__, and much faster than an exception
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, ParamSpec, TypedDict, TypeVar, Unpack, overload

import msgspec

from chappe.archive.feeding import Subscription
from chappe.archive.follow import Following, Since
from chappe.blocking import Place, warn_of_blocking
from chappe.bus.bus import Bus, Middleware, MiddlewareFunction
from chappe.bus.context import NO_PORTS, Context, Leaving, Ports
from chappe.bus.digest import digest_of
from chappe.bus.draft import Draft, draft_of, listed
from chappe.bus.handler import Handler
from chappe.bus.loop import attempted
from chappe.bus.merging import Merger, Publish
from chappe.bus.providers import Providers
from chappe.bus.registry import Registry
from chappe.bus.task import Task, TaskMaker
from chappe.connection import Connection, Setting
from chappe.connections import Connections
from chappe.engines.contract.archive import Archive
from chappe.errors import CommandFailed, DefinitionError, DuplicateName, ResultTimeout, TooLate
from chappe.messages.capabilities import Capabilities
from chappe.messages.envelope import Publication, Receipt, changed
from chappe.messages.message import Command, Event, Message, writer_of
from chappe.messages.topology import Queue
from chappe.messages.values import result_as, result_of
from chappe.middleware.defaults import defaults
from chappe.settings import Settings
from chappe.stepping import stepped
from chappe.triggers.schedule import Schedule, Trigger

if TYPE_CHECKING:
    from chappe.engines.file.server import Engine  # 2 MB that only a process which owns a file needs

log = logging.getLogger("chappe.app")

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


class Asking(TypedDict, total=False):
    """How `ask` waits, and what it may say of the message: see `App.send`."""

    timeout: float
    delay: float | None
    priority: int | None
    idempotency_key: str | None


class App:
    """Messages, handlers and middleware of one program.

    Everything is declared while the program is imported, and frozen with the first message.
    """

    def __init__(self, name: str, *, settings: Settings | None = None, middleware: Sequence[Middleware] | None = None) -> None:
        """Make an application; without `settings` they come from flags, environment and chappe.toml.

        `name` is part of the names of its queues, schedules and keys: no two applications on one engine may share it.
        """
        if not isinstance(name, str) or not re.fullmatch(r"[\w.-]{1,100}", name):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise DefinitionError(f"App({name!r}): it is part of the names of queues; use up to 100 letters, digits, dots and dashes")
        self.name = name
        self.registry = Registry(name)
        self.connections = Connections(self.registry, Setting(settings))
        self.providers = Providers()
        self.bus = Bus(self.registry, self.providers, defaults() if middleware is None else middleware)
        self.merger = Merger(self.bus)
        self.schedules: list[Schedule] = []
        self.sources: list[Callable[[], Coroutine[Any, Any, None]]] = []
        self.subscriptions: list[Subscription] = []
        self._said_to_block: set[Place] = set()

    # --- declaring

    @property
    def settings(self) -> Settings:
        """The settings in force."""
        return self.connections.settings

    def configure(self, settings: Settings, *, role: str = "client", may_own_file: bool = True, engine: Engine | None = None) -> None:
        """Use these settings; for the processes of `chappe run` and for tests, before the first message."""
        self.connections.setting = Setting(settings, role, may_own_file, engine)

    def handles(
        self, *messages: type[Command], queue: Queue | None = None, batch: int | None = None, within: float = 1.0
    ) -> Callable[[F], F]:
        """Register a handler of commands; several handlers of one command run in the order of their registration.

        `queue` says that this handler serves what comes through that queue, and declares it. With `batch` it is called with a list of up
        to so many commands, as soon as there are so many, or the oldest was sent `within` so many seconds; what it returns is nothing, or
        a list with a result, or an error, for each. What it raises is a failed attempt of all, and what is tried again comes alone.
        """

        def register(function: F) -> F:
            self._refuse_if_frozen("handlers")
            handler = Handler(function, digest=digest_of(getattr(function, "__qualname__", repr(function)), batch, within))
            for message in messages:
                self.registry.add_handler(message, handler, queue)
            return function

        if not messages:
            raise DefinitionError("@app.handles needs the command: @app.handles(SyncProperty)")
        return register

    def on(
        self,
        what: type[Event] | str,
        *,
        name: str | None = None,
        temporary: bool = False,
        since: int | datetime | timedelta | None = None,
    ) -> Callable[[F], F]:
        """Register a subscriber of an event, or of a pattern like `"bid.*"`, with its own durable queue.

        With `temporary`, each worker process has a queue of its own while it runs, and misses what is published while it does not.
        With `since`, a `seq`, a `datetime` or a `timedelta`, it first hears what the archive holds since then, when it starts for the
        first time, and goes on with what comes: the scheduler puts it all into its queue. Raises `DefinitionError`.
        """

        def register(function: F) -> F:
            self._refuse_if_frozen("subscribers")
            handler = Handler(function)
            if since is not None and temporary:
                raise DefinitionError(f"{handler.origin}: a temporary subscriber has no past to begin in; leave out since or temporary")
            added = self.registry.add_subscriber(what, handler, name, temporary=temporary, is_bound=since is None)
            if since is not None:
                subscription = Subscription(self.connection, added.queue.name, added.exchange, added.pattern, since=since, now=self.bus.now)
                self.subscriptions.append(subscription)
                self.sources.append(subscription.run)
            return function

        return register

    def provides(self, function: F) -> F:
        """Register what handlers get by annotation: a function, or a generator that cleans up behind its yield."""
        self.providers.add(function)
        return function

    def use(self, middleware: Middleware | MiddlewareFunction) -> None:
        """Append a middleware: the first used is the outermost."""
        self.bus.use(middleware)

    def knows(self, *messages: type[Message], queue: Queue | None = None) -> None:
        """Declare messages that this program sends but does not handle, and the queue of another program in which they wait."""
        if queue is not None:
            self._refuse_if_frozen("queues")
            self.registry.add_queue(msgspec.structs.replace(queue, origin=queue.origin or self.name))
        for message in messages:
            self.registry.add_message(message)

    def schedule(self, trigger: Trigger, message: Command, *, name: str | None = None, misfire: str = "once") -> None:
        """Send a command at each slot of a trigger: `cron("0 4 * * *")` or `every(60)`.

        `misfire` says what becomes of slots missed while nothing ran: once, skip or all.
        """
        self._refuse_if_frozen("schedules")
        if not isinstance(trigger, Trigger):  # pyright: ignore[reportUnnecessaryIsInstance] - not everybody runs a type checker
            raise DefinitionError(f'app.schedule needs cron("…") or every(…), not {trigger!r}')
        if not isinstance(message, Command):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise DefinitionError(f"app.schedule sends a command, not {message!r}; write it with its fields, like SendReport(day=1)")
        if message.__spec__.inline:
            raise DefinitionError(f"{type(message).__name__} is inline, so no worker could handle it when it is due; leave out inline=True")
        self.knows(type(message))
        _ = writer_of(type(message))(message)  # what cannot be written is said here, not at each slot
        schedule = Schedule(f"{self.name}:{name or f'{message.__spec__.name}:{trigger}'}", trigger, message, misfire)
        if any(known.name == schedule.name for known in self.schedules):
            raise DuplicateName(f'two schedules are called "{schedule.name}"; give one of them name="..."')
        self.schedules.append(schedule)

    @overload
    def task(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> Task[P, R, Coroutine[Any, Any, R]]: ...
    @overload
    def task(self, function: Callable[P, AsyncIterator[Any]], /) -> Task[P, None, AsyncIterator[Any]]: ...
    @overload
    def task(self, function: Callable[P, Generator[Any, Any, R]], /) -> Task[P, R, Generator[Any, Any, R]]: ...
    @overload
    def task(self, function: Callable[P, R], /) -> Task[P, R, R]: ...
    @overload
    def task(self, function: None = None, /, **capabilities: Unpack[Capabilities]) -> TaskMaker: ...
    def task(self, function: Callable[..., Any] | None = None, /, **capabilities: Unpack[Capabilities]) -> Any:
        """Turn a function into a command with `.send(…)` of the same signature."""

        def make(inner: Callable[..., Any]) -> Task[..., Any, Any]:
            self._refuse_if_frozen("tasks")
            made: Task[..., Any, Any] = Task(self, self.providers, inner, capabilities)
            self.registry.add_handler(made.command, made.handler, None)
            return made

        return make if function is None else make(function)

    def _refuse_if_frozen(self, what: str) -> None:
        if self.bus.frozen:
            raise TooLate(f"{what} must be declared before the first message is sent or handled")

    # --- sending

    def _warn_in_loop(self, verb: str) -> None:
        if _get_running_loop() is not None:
            warn_of_blocking(verb, self._said_to_block)

    @overload
    def send(
        self, message: Message, *, delay: float | None = None, priority: int | None = None, idempotency_key: str | None = None
    ) -> Receipt: ...
    @overload
    def send(
        self, message: Sequence[Message], *, delay: float | None = None, priority: int | None = None, idempotency_key: None = None
    ) -> list[Receipt]: ...
    def send(self, message: Any, *, delay: float | None = None, priority: int | None = None, idempotency_key: str | None = None) -> Any:
        """Store a message, or a sequence of them at once; when this returns they are durable.

        An inline command is handled when this returns. Of a sequence, all inline commands are handled first, and if one of
        them fails, nothing is stored. Raises `Unroutable`, `BrokerUnavailable`, `Unconfirmed`.
        """
        self._warn_in_loop("send")
        messages, many = listed(message)
        drafts = [draft_of(one, delay=delay, priority=priority, idempotency_key=idempotency_key) for one in messages]
        if any(one.__spec__.inline for one in messages):
            receipts = self.wait_for(self._asend(messages, drafts))
        else:
            publications = [self.bus.prepare(one, draft) for one, draft in zip(messages, drafts, strict=True)]
            receipts = self._send(publications) if publications else []
        return receipts if many else receipts[0]

    def _send(self, publications: Sequence[Publication]) -> list[Receipt]:
        """Publish from this thread if that can be done, or else through an event loop."""
        publisher = self.connections.publisher()
        if publisher is None or not publisher.takes(publications):
            return self.wait_for(self.publish_all(publications))
        return stepped(self._publish(publications, publisher.publish))

    @overload
    async def asend(
        self, message: Message, *, delay: float | None = None, priority: int | None = None, idempotency_key: str | None = None
    ) -> Receipt: ...
    @overload
    async def asend(
        self, message: Sequence[Message], *, delay: float | None = None, priority: int | None = None, idempotency_key: None = None
    ) -> list[Receipt]: ...
    async def asend(
        self, message: Any, *, delay: float | None = None, priority: int | None = None, idempotency_key: str | None = None
    ) -> Any:
        """See `send`."""
        messages, many = listed(message)
        drafts = [draft_of(one, delay=delay, priority=priority, idempotency_key=idempotency_key) for one in messages]
        receipts = await self._asend(messages, drafts)
        return receipts if many else receipts[0]

    async def _asend(self, messages: Sequence[Message], drafts: Sequence[Draft]) -> list[Receipt]:
        pairs = list(zip(messages, drafts, strict=True))
        publications = [self.bus.prepare(one, draft) for one, draft in pairs if not one.__spec__.inline]
        for one, draft in pairs:
            if one.__spec__.inline:
                await self.handle_now(one, draft.id)
        stored = iter(await self.publish_all(publications) if publications else ())
        return [Receipt(draft.id, "done") if one.__spec__.inline else next(stored) for one, draft in pairs]

    def publish(self, event: Event) -> Receipt:
        """Publish an event to all its subscribers; without any it is archived only."""
        self._warn_in_loop("publish")
        return self.send(event)

    async def apublish(self, event: Event) -> Receipt:
        """See `publish`."""
        return await self.asend(event)

    @overload
    def ask(self, command: Command, *, returns: type[T], **options: Unpack[Asking]) -> T: ...
    @overload
    def ask(self, command: Command, *, returns: Any = Any, **options: Unpack[Asking]) -> Any: ...
    def ask(
        self,
        command: Command,
        *,
        returns: Any = Any,
        timeout: float = 30.0,
        delay: float | None = None,
        priority: int | None = None,
        idempotency_key: str | None = None,
    ) -> Any:
        """Send a command and wait for what its handlers return; with `returns`, it is checked and made of that type.

        Raises `CommandFailed` if it ends as a dead letter, `ResultTimeout` if it is not done in `timeout` seconds (it goes on),
        `InvalidMessage` if the result is of another type.
        """
        self._warn_in_loop("ask")
        options: Asking = {"timeout": timeout, "delay": delay, "priority": priority, "idempotency_key": idempotency_key}
        return self.wait_for(self.aask(command, returns=returns, **options))

    @overload
    async def aask(self, command: Command, *, returns: type[T], **options: Unpack[Asking]) -> T: ...
    @overload
    async def aask(self, command: Command, *, returns: Any = Any, **options: Unpack[Asking]) -> Any: ...
    async def aask(
        self,
        command: Command,
        *,
        returns: Any = Any,
        timeout: float = 30.0,  # noqa: ASYNC109 - the word users know
        delay: float | None = None,
        priority: int | None = None,
        idempotency_key: str | None = None,
    ) -> Any:
        """See `ask`."""
        draft = draft_of(command, delay=delay, priority=priority, idempotency_key=idempotency_key)
        if command.__spec__.inline:
            return result_as(returns, command.__spec__.name, await self.handle_now(command, draft.id))
        draft.options = changed(draft.options, tracked=True)
        (receipt,) = await self.publish_all([self.bus.prepare(command, draft)])
        found = await self.aresult(draft.id if receipt.outcome == "merged" else receipt.id, timeout=timeout)
        return result_as(returns, command.__spec__.name, found)

    async def aresult(self, message_id: str, *, timeout: float = 30.0) -> Any:  # noqa: ASYNC109 - the word users know
        """Wait for the result of a tracked message. Raises as `ask` does, and `NotFound`."""
        connection = await self.connection()
        if self.connections.setting.handle is not None:
            await self.connections.setting.handle(message_id, timeout)
        state = await connection.store.result(message_id, timeout)
        if state.state == "dead" or state.error is not None:
            raise CommandFailed(message_id, state.error or "dead", state.state)
        if state.state == "done":
            return None if state.result is None else msgspec.json.decode(state.result)
        raise ResultTimeout(f"command {message_id} is still {state.state} after {timeout:g} s; ask again by its id")

    async def handle_now(self, message: Message, identity: str) -> Any:
        """Run the handlers of a message in this process; what they send is stored when they are done, all of it or nothing."""
        is_limited = message.__spec__.rate is not None or bool(message.__spec__.budget)  # even an inline message
        ports = await self.ports() if is_limited else NO_PORTS
        context = Context(identity, sent_at=self.bus.now(), ports=ports, now=self.bus.now)
        try:
            with attempted(context, f"the handler of {message.__spec__.name} {identity}"):
                result = await self.bus.handle(message, context)
        finally:
            context.end()
        if context.then:
            await self.publish_all(self.bus.prepared(context.then))
        return result

    async def publish_all(self, publications: Sequence[Publication]) -> list[Receipt]:
        """Publish, merging with what is pending for as long as somebody else changes it meanwhile."""
        connection = await self.connection()
        return await self._publish(publications, connection.broker.publish)

    async def _publish(self, publications: Sequence[Publication], publish: Publish) -> list[Receipt]:
        if all(p.options is None for p in publications):
            return await publish(publications)
        return await self.merger.publish(publications, publish)

    # --- following

    def follow(
        self, pattern: str = "#", *, since: Since | None = None, name: str | None = None, acks: bool = False, catches_up: bool = True
    ) -> Following:
        """Return an asynchronous iterator over archived events whose routing key fits: those since then, then what comes.

        `since` is a `seq`, a `datetime`, a `timedelta`, or nothing for what comes only. With a `name`, how far it is is kept durably, and
        `since` counts for the first time only: it goes on behind the last event that its loop was done with, or, with `acks`, that it
        acknowledged by `ack`; where it does not catch up, it hears first how many it missed while it was away. Where history was lost
        meanwhile, that is heard first. Raises `DefinitionError`.
        """

        async def archive() -> Archive:
            return (await self.connection()).store

        kept = name and f"{self.name}:{name}"
        return Following(archive, pattern, self.bus.opened, since=since, name=kept, acks=acks, catches_up=catches_up)

    def cancel(self, message_id: str) -> str:
        """Have a message not be handled, and return where it was: *delayed* or *ready*, and it is gone, or *running*.

        A running `async` handler is cancelled, one in a process of its own ended; one in a thread goes on, and what it sent leaves with
        it. Raises `NotFound`.
        """
        self._warn_in_loop("cancel")
        return self.wait_for(self.acancel(message_id))

    async def acancel(self, message_id: str) -> str:
        """See `cancel`."""
        return await (await self.connection()).broker.cancel(message_id)

    # --- connections

    async def connection(self, info: dict[str, Any] | None = None) -> Connection:
        """Return the broker and store of the running event loop, with this application's topology declared.

        `info` is what the engine shows of this process; it counts with the first call.
        """
        return await self.connections.here(info)

    async def ports(self) -> Ports:
        """Return what handling needs from the store."""
        connection = await self.connection()
        kept = connection.store

        async def mark(message_id: str, handler: str, then: Leaving, result: Any) -> bool:
            kept_result, missing = result_of(result)
            if missing is not None:
                log.error("%s: %s is %s", message_id, handler, missing)
            originals = self.merger.fold(self.bus.prepared(then))
            _ = await self.connection()
            tried = originals
            while receipts := await kept.mark(message_id, handler, tried, kept_result):
                tried = self.merger.merged(originals, tried, receipts)
            return True

        return Ports(
            mark=mark,
            marks=kept.marks,
            progress=kept.progress,
            take=kept.take,
            throttle=kept.throttle,
            declare=self.connection,
            loop=asyncio.get_running_loop(),
        )

    def wait_for(self, work: Coroutine[Any, Any, R]) -> R:
        """Run a coroutine on this application's own event loop thread and return its result."""
        return self.connections.run(work)

    async def aclose(self) -> None:
        """Close the connection of the running event loop, and what was provided."""
        await self.bus.close()
        await self.connections.close_here()

    def close(self) -> None:
        """Close the connection that the synchronous verbs use."""
        self.connections.close(self.aclose)
