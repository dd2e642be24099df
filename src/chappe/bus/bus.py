"""The bus: one fold over middleware on the way out, one on the way in, both frozen at first use."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import msgspec

from chappe.bus.context import Context, Leaving
from chappe.bus.draft import Draft
from chappe.bus.handler import Handler, Invoke
from chappe.bus.loops import PerLoop
from chappe.bus.providers import Providers
from chappe.bus.registry import Registry
from chappe.clocks import wall
from chappe.errors import DefinitionError, InvalidMessage, TooLate
from chappe.messages.capabilities import MessageSpec
from chappe.messages.codec import JSON, decoder
from chappe.messages.envelope import NO_HEADERS, Envelope, Options, Publication, changed
from chappe.messages.message import Command, Message, writer_of
from chappe.messages.template import renderer
from chappe.messages.topology import EVENTS
from chappe.settings import CONCURRENCY

Send = Callable[[Any, Draft], Publication]
Handle = Callable[[Any, Context], Awaitable[Any]]
CallNext = Callable[[Any, Context], Awaitable[Any]]
Isolate = Callable[[Handler, type[Message], str | None], Invoke]


class Middleware:
    """What happens around messages; each method is called once for each message type in each event loop.

    Return `call_next` itself where the message does not ask for this behaviour: then it costs nothing.
    """

    def wrap_send(self, spec: MessageSpec, call_next: Send) -> Send:
        """Wrap the way out: from a message and its draft to the publication."""
        return call_next

    def wrap_handle(self, spec: MessageSpec, call_next: Handle) -> Handle:
        """Wrap the way in: from a message and its context to the result."""
        return call_next

    def wrap_apart(self, spec: MessageSpec, call_next: Handle) -> Handle:
        """Wrap a handler in the process of its own that it runs in; the way in is around it in its worker, and sees its error as text."""
        return call_next


class MiddlewareFunction(Protocol):
    """A middleware for the way in, written as one function."""

    async def __call__(self, message: Any, context: Context, call_next: CallNext) -> Any: ...


class _Function(Middleware):
    def __init__(self, function: MiddlewareFunction) -> None:
        self.function = function

    def wrap_handle(self, spec: MessageSpec, call_next: Handle) -> Handle:
        function = self.function

        def around(message: Any, context: Context) -> Awaitable[Any]:
            return function(message, context, call_next)

        return around


class Bus:
    """Turns messages into publications, and deliveries into handled messages."""

    def __init__(self, registry: Registry, providers: Providers, middleware: Sequence[Middleware] = ()) -> None:
        self.registry = registry
        self.providers = providers
        self._middleware = list(middleware)
        self.clock: Callable[[], float] = wall
        self.isolate: Isolate | None = None  # what runs handlers in processes of their own, where this process may start some
        self._frozen = False
        self._sends: dict[type[Message], Send] = {}
        self._thread_count = CONCURRENCY
        self._bound = PerLoop(lambda: _Bound(self._thread_count))

    def use(self, middleware: Middleware | MiddlewareFunction) -> None:
        """Append a middleware: it runs inside those before it. Raises `TooLate` after the first use."""
        if self._frozen:
            raise TooLate("this application is in use: add middleware where it is defined, before the first message")
        if not isinstance(middleware, Middleware) and not callable(middleware):
            raise DefinitionError(f"app.use needs a Middleware or an async function, not {middleware!r}")
        self._middleware.append(middleware if isinstance(middleware, Middleware) else _Function(middleware))

    @property
    def middleware(self) -> tuple[Middleware, ...]:
        """All middleware in their order."""
        return tuple(self._middleware)

    @property
    def frozen(self) -> bool:
        """Whether the first message was sent or handled."""
        return self._frozen

    def now(self) -> float:
        """Return the time by which messages are sent and grow old."""
        return self.clock()

    def set_threads(self, count: int = CONCURRENCY) -> None:
        """Run synchronous handlers in at most so many threads for each event loop that handles its first message later."""
        self._thread_count = max(1, count)

    # --- out

    def prepare(self, message: Message, draft: Draft) -> Publication:
        """Return the publication of a message."""
        kind = type(message)
        send = self._sends.get(kind)
        if send is None:
            send = self._sends[kind] = self._fold_send(kind)
        return send(message, draft)

    def prepared(self, leaving: Leaving) -> list[Publication]:
        """Return the publications of what handlers sent."""
        return [one if isinstance(one, Publication) else self.prepare(*one) for one in leaving]

    def _fold_send(self, kind: type[Message]) -> Send:
        self._frozen = True
        self.registry.add_routable(kind)
        spec = self.registry.spec_of(kind)
        send = _seal(kind, spec, writer_of(kind), self.now, self.registry.name)
        for middleware in reversed(self._middleware):
            send = middleware.wrap_send(spec, send)
        return send

    # --- in

    def opened(self, envelope: Envelope) -> Message | None:
        """Return the message in an envelope, or nothing where no class has its name or its body does not fit."""
        kind = self.registry.messages.get(envelope.type)
        try:
            return None if kind is None else decoder(kind, envelope.content_type)(envelope.body)
        except Exception:  # also what a message's own __post_init__ raises
            return None

    async def handle(self, message: Message, context: Context, queue: str | None = None) -> Any:
        """Run the handlers of a message inside the middleware and return the last result."""
        return await (await self.handle_of(type(message), queue))(message, context)

    async def handle_of(self, kind: type[Message], queue: str | None) -> Handle:
        """Return the folded way in of a message type, for the running event loop; raises `NoHandler`."""
        bound = self._bound.here()
        found = bound.handles.get((kind, queue))
        if found is None:
            self._frozen = True
            handlers, spec = self.registry.handlers_of(kind, queue), self.registry.spec_of(kind)
            isolate = None if spec.process is None else self.isolate
            invokes = [(h.name, await self._bind(h, bound) if isolate is None else isolate(h, kind, queue)) for h in handlers]
            found = _in_order(invokes)
            for middleware in reversed(self._middleware):
                found = middleware.wrap_handle(spec, found)
            bound.handles[kind, queue] = found
        return found

    async def apart(self, handler: Handler, kind: type[Message]) -> Handle:
        """Return what runs one handler in a process of its own, in the running event loop; its worker handles everything around it."""
        self._frozen = True
        found, spec = await self._bind(handler, self._bound.here()), self.registry.spec_of(kind)
        for middleware in reversed(self._middleware):
            found = middleware.wrap_apart(spec, found)
        return found

    async def _bind(self, handler: Handler, bound: _Bound) -> Invoke:
        invoke = bound.invokes.get(handler)
        if invoke is None:
            invoke = bound.invokes[handler] = await handler.bind(self.providers, bound.threads)
        return invoke

    def forget_bound(self) -> None:
        """Have the handlers of all event loops ask again for what is provided, for tests that provide something else."""
        self._bound.clear()

    async def close(self) -> None:
        """Close what was provided to the running event loop; the bus may be used again afterwards."""
        bound = self._bound.pop()
        await self.providers.close()
        if bound is not None:
            await asyncio.to_thread(bound.threads.shutdown, wait=False, cancel_futures=True)


class _Bound:
    """The handlers of one event loop with what they were provided, and the threads in which synchronous ones run."""

    def __init__(self, threads: int) -> None:
        self.handles: dict[tuple[type[Message], str | None], Handle] = {}
        self.invokes: dict[Handler, Invoke] = {}
        self.threads = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="chappe-handler")


def _seal(kind: type[Message], spec: MessageSpec, write: Callable[[Any], bytes], now: Callable[[], float], application: str) -> Send:
    """Return the innermost step of the way out: encode, and address by the message's own declaration."""
    exchange = "" if spec.exchange is None else spec.exchange.name
    if issubclass(kind, Command):
        key = renderer(spec.routing_key or spec.queue or "")
    else:
        exchange = exchange or EVENTS.name
        key = renderer(spec.routing_key or spec.name)
    name = spec.name

    def seal(message: Any, draft: Draft) -> Publication:
        if draft.headers:
            parts: list[Any] = [part for pair in draft.headers.items() for part in pair]
            if not all(isinstance(part, str) and _can_be_sent(part) for part in parts):
                raise InvalidMessage(name, {"headers": f"names and values must be texts: {draft.headers!r}"})
        options = None if draft.options is None else _owned(application, draft.options)
        envelope = Envelope(draft.id, name, write(message), now(), JSON, draft.headers or NO_HEADERS, draft.correlation_id, draft.reply_to)
        return Publication(envelope, key(message), exchange, draft.priority or 0, draft.delay or 0.0, options)

    return seal


def _owned(application: str, options: Options) -> Options:
    """Return options whose unique key and idempotency key are those of one application, and no other's on the same engine."""
    unique, key = options.unique, options.idempotency_key
    if unique is None and key is None:
        return options
    unique, key = (None if one is None else f"{application}:{one}" for one in (unique, key))
    return changed(options, unique=unique, idempotency_key=key)


def _can_be_sent(text: str) -> bool:
    """Tell whether a text has no half of a surrogate pair, which no encoding can write."""
    return text.isascii() or not any("\ud800" <= c <= "\udfff" for c in text)


def _in_order(invokes: Sequence[tuple[str, Invoke]]) -> Handle:
    """Return the innermost step of the way in: the handlers one after the other, each marked when it finished."""
    if len(invokes) == 1:
        return invokes[0][1]

    async def run_all(message: Any, context: Context) -> Any:
        context.marked = True
        ports = context.ports
        finished = await ports.marks(context.id)
        result: Any = None
        for position, (name, invoke) in enumerate(invokes):
            if name in finished:
                kept = finished[name]
                result = result if kept is None else msgspec.json.decode(kept)
                continue
            outcome = await invoke(message, context)
            result = outcome if outcome is not None else result
            if position == len(invokes) - 1:
                break
            leaving = context.take()
            if not await ports.mark(context.id, name, leaving, outcome):
                context.give_back(leaving)
        return result

    return run_all
