"""Which messages there are, who handles them, and the queues that follow from it."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from msgspec.structs import replace

from chappe.bus.digest import refuse_impatient
from chappe.bus.handler import Handler
from chappe.errors import ChappeError, DefinitionError, DuplicateName, NoHandler, UnknownMessage
from chappe.messages.capabilities import DEFAULT_QUEUE, Exchange, MessageSpec
from chappe.messages.message import Command, Event, Message, examined_of
from chappe.messages.template import expand, fields_of
from chappe.messages.topology import EVENTS, Binding, Queue, Topology, bind, refuse_conflict, refuse_other_kind

M = TypeVar("M", bound=Message)


@dataclass(frozen=True)
class Subscriber:
    """A handler of events with its own queue, which is bound to an exchange unless it is fed from the archive."""

    handler: Handler
    exchange: Exchange
    pattern: str
    queue: Queue
    message: type[Event] | None


class Registry:
    """Everything that was declared on one application."""

    def __init__(self, name: str = "app") -> None:
        """Begin empty, for the application of this name, which stands in the names of queues that were given none."""
        self.name = name
        self.messages: dict[str, type[Message]] = {}
        self.routes: dict[tuple[type[Message], str | None], list[Handler]] = {}  # in order, of one queue or of any
        self.subscribers: dict[str, Subscriber] = {}
        self.exchanges: dict[str, Exchange] = {EVENTS.name: EVENTS}
        self.queues: dict[str, Queue] = {}
        self.temporary: dict[str, Queue] = {}  # each consumer makes its own
        self._is_lasting = False
        self._topology: tuple[tuple[int | bool, ...], Topology] | None = None

    # --- declaring

    def add_message(self, message: type[Message]) -> None:
        """Know a message class by its name and aliases; raises `DuplicateName`."""
        spec = message.__spec__
        if self.messages.get(spec.name) is not message:
            _ = examined_of(message)
        for name in (spec.name, *spec.aliases):
            known = self.messages.setdefault(name, message)
            if known is not message:
                raise DuplicateName(f'"{name}" is the name of both {_where(known)} and {_where(message)}; give one of them name="..."')

    def add_routable(self, message: type[Message]) -> None:
        """Know a message class that is about to be sent; what disagrees with the rest of the topology stays unknown, and is raised."""
        before = dict(self.messages)
        self.add_message(message)
        try:
            _ = self.topology()
        except ChappeError:
            self.messages = before
            raise

    def add_handler(self, message: type[Command], handler: Handler, queue: Queue | None) -> None:
        """Append a handler of a command, of what comes through one queue or of all."""
        _refuse_other_kind_of_message(message, Command, handler, "@app.handles needs a command class", "subscribe to events with @app.on")
        _refuse_other_annotation(message, handler, "handles")
        self.add_message(message)
        spec = message.__spec__
        if handler.digest is not None:
            refuse_impatient(handler.origin, handler.digest, spec)
        if queue is not None:
            if spec.inline:
                raise DefinitionError(f"{handler.origin}: {message.__name__} is inline and comes through no queue; leave out inline=True")
            if spec.exchange is None and spec.queue == DEFAULT_QUEUE != queue.name:
                raise DefinitionError(
                    f'{handler.origin}: {message.__name__} waits in the queue "{DEFAULT_QUEUE}", not in "{queue.name}"; '
                    "name the queue, or the exchange that it is bound to, on the class"
                )
            queue = replace(queue, name=self.queue_name(queue.name), origin=queue.origin or handler.origin)
            self.add_queue(queue)
        elif spec.exchange is not None and spec.queue is None:
            raise DefinitionError(
                f'{handler.origin}: {message.__name__} is published to exchange "{spec.exchange.name}"; say the queue of this handler: '
                f'@app.handles({message.__name__}, queue=bind("name", "{spec.exchange.name}:{spec.routing_key}"))'
            )
        handlers = self.routes.setdefault((message, queue.name if queue else None), [])
        if any(h.name == handler.name for h in handlers):
            raise DuplicateName(f"{handler.origin} handles {message.__name__} twice; write a function of its own name for the second")
        handlers.append(handler)

    def add_subscriber(
        self, what: type[Event] | str, handler: Handler, name: str | None, *, temporary: bool = False, is_bound: bool = True
    ) -> Subscriber:
        """Give an event handler its own queue, durable or temporary, bound by the event's routing key or by a pattern, or not at all."""
        if isinstance(what, str):
            if not all(what.split(".")) or any(c.isspace() for c in what):
                raise DefinitionError(f'{handler.origin}: "{what}" is no pattern; write words joined by dots, * for one word, # for any')
            _refuse_other_annotation(Event, handler, "subscribes to")
            pattern, exchange, message = what, EVENTS, None
        else:
            _refuse_other_kind_of_message(
                what, Event, handler, "@app.on needs an event class or a pattern", "handle commands with @app.handles"
            )
            _refuse_other_annotation(what, handler, "subscribes to")
            self.add_message(what)
            pattern, exchange, message = _pattern_of(what, handler), what.__spec__.exchange or EVENTS, what
        if name is None and not handler.short_name.isidentifier():
            raise DefinitionError(f'{handler.origin}: a subscriber without a name has no queue; give it name="..."')
        queue_name = name or f"{self.name}.on.{handler.short_name}"
        known = self.subscribers.get(queue_name)
        if known is not None:
            raise DuplicateName(
                f'queue "{queue_name}" belongs to both {known.handler.origin} and {handler.origin}; give one of them name="..."'
            )
        queue = bind(queue_name, *([Binding(exchange.name, pattern)] if is_bound else ()), origin=handler.origin)
        if temporary:
            if queue_name in self.queues:
                raise DuplicateName(f'{handler.origin}: "{queue_name}" is a queue already; give the subscriber another name="..."')
            self.temporary[queue_name] = queue
        else:
            self.add_queue(queue)
        self.subscribers[queue_name] = Subscriber(handler, exchange, pattern, queue, message)
        return self.subscribers[queue_name]

    def add_queue(self, queue: Queue) -> None:
        """Declare a queue; raises `TopologyConflict` if it is declared with other bindings, or `DuplicateName` if it is a temporary one."""
        self._refuse_temporary(queue.name)
        refuse_conflict(self.queues.setdefault(queue.name, queue), queue)

    def add_topology(self, topology: Topology) -> None:
        """Declare what this application declares in another process; raises as `add_queue` does."""
        self.exchanges |= {exchange.name: exchange for exchange in topology.exchanges}
        for queue in topology.queues:
            self.add_queue(queue)

    def _refuse_temporary(self, queue: str) -> None:
        if queue in self.temporary:
            raise DuplicateName(f'"{queue}" is the queue of a temporary subscriber; give one of them another name')

    @contextmanager
    def lasting(self) -> Generator[None]:
        """Have temporary subscribers be there all the time, also between two consumers: so it is in tests."""
        self._is_lasting = True
        try:
            yield
        finally:
            self._is_lasting = False

    # --- asking

    def queue_name(self, given: str) -> str:
        """Return what a queue is called on the engine: the default one carries the application's name, others are as they were given."""
        return f"{self.name}.{DEFAULT_QUEUE}" if given == DEFAULT_QUEUE else given

    def spec_of(self, message: type[Message]) -> MessageSpec:
        """Return the capabilities of a message in this application."""
        spec = message.__spec__
        return spec if spec.queue != DEFAULT_QUEUE else replace(spec, queue=self.queue_name(DEFAULT_QUEUE))

    def message(self, name: str) -> type[Message]:
        """Return the class of a name; raises `UnknownMessage` with a suggestion."""
        found = self.messages.get(name)
        if found is None:
            near = difflib.get_close_matches(name, self.messages, n=1, cutoff=0.5)
            hint = f'did you mean "{near[0]}"?' if near else f"known are: {', '.join(sorted(self.messages)) or 'none'}"
            raise UnknownMessage(f'no message is called "{name}", {hint}')
        return found

    def commands(self) -> list[type[Command]]:
        """Return the commands by name, each once."""
        return self._named(Command)

    def events(self) -> list[type[Event]]:
        """Return the events by name, each once."""
        return self._named(Event)

    def _named(self, kind: type[M]) -> list[type[M]]:
        return sorted({m for m in self.messages.values() if issubclass(m, kind)}, key=lambda m: m.__spec__.name)

    def handlers_of(self, message: type[Message], queue: str | None) -> list[Handler]:
        """Return the handlers of a message that came through a queue, in order; raises `NoHandler`."""
        subscriber = self.subscribers.get(queue or "")
        if subscriber is not None:  # its binding may take others too: nothing is done about those
            return [subscriber.handler] if subscriber.message in (None, message) else []
        route = self.routes.get((message, queue)) or self.routes.get((message, None))
        if route is None:
            where = f' in queue "{queue}"' if queue else ""
            raise NoHandler(
                f"nothing handles {message.__name__}{where}; write a function and decorate it with @app.handles({message.__name__})"
            )
        return route

    def takes(self, queue: str, name: str) -> bool:
        """Tell whether a message of this name is handled when it comes from a queue; of the queues of others nothing is known."""
        message = self.messages.get(name)
        return queue not in self.consumed_queues() or (
            message is not None and ((message, queue) in self.routes or (message, None) in self.routes)
        )

    @property
    def waiting_places(self) -> int:
        """How many messages a worker may hold beside those in its slots: they wait for others to be handled with."""
        return sum(2 * h.digest.batch for _, _, handlers in self._ways() for h in handlers if h.digest is not None)

    def consumed_queues(self) -> list[str]:
        """Return the queues that this application's handlers serve."""
        return sorted({name for _, names, _ in self._ways() for name in names})

    def served(self, names: Sequence[str]) -> tuple[list[str], list[Queue]]:
        """Return those of the consumed queues that are declared for all, and the temporary ones, as `Broker.consume` takes them."""
        temporary, types = {} if self._is_lasting else self.temporary, self._types()
        lasting = [name for name in names if name not in temporary]
        return lasting, [replace(temporary[name], type=types.get(name, "")) for name in names if name in temporary]

    def needs_processes(self, queues: Sequence[str]) -> bool:
        """Tell whether something that comes through these queues is handled in a process of its own."""
        apart = [names for message, names, _ in self._ways() if message is not None and message.__spec__.process is not None]
        return any(not set(queues).isdisjoint(names) for names in apart)

    def _ways(self) -> Iterator[tuple[type[Message] | None, Sequence[str], list[Handler]]]:
        """Yield each message that is handled, nothing for those of a pattern, with the queues through which it comes and its handlers."""
        for name, subscriber in self.subscribers.items():
            yield subscriber.message, [name], [subscriber.handler]
        for (message, queue), handlers in self.routes.items():
            yield message, self._queues_of(message, queue), handlers

    def topology(self) -> Topology:
        """Return all exchanges, lasting queues and bindings, the same object until something new is known.

        Raises `TopologyConflict` if two declarations disagree, and `DuplicateName` if the queue of a command is that of a temporary
        subscriber.
        """
        declared = len(self.messages) + len(self.exchanges) + len(self.queues) + len(self.temporary)  # each of them only grows
        known = (declared + len(self.subscribers) + len(self.routes), self._is_lasting)
        if self._topology is None or self._topology[0] != known:
            self._topology = (known, self._made_topology())
        return self._topology[1]

    def _made_topology(self) -> Topology:
        exchanges = dict(self.exchanges)
        queues = self.queues | self.temporary if self._is_lasting else dict(self.queues)
        for message in set(self.messages.values()):
            spec = self.spec_of(message)
            if spec.exchange is not None:
                refuse_other_kind(exchanges.setdefault(spec.exchange.name, spec.exchange), spec.exchange)
            if spec.queue is not None:
                for name in expand(message.__name__, spec.queue, message):
                    self._refuse_temporary(name)
                    bindings = (Binding(spec.exchange.name, name),) if spec.exchange is not None else ()
                    queue = Queue(name, bindings, _where(message))
                    known = queues.setdefault(name, queue)
                    if bindings:
                        refuse_conflict(known, queue)
        types, fair = self._types(), self._fair()
        named = (
            replace(queue, type=queue.type or types.get(name, ""), fair=queue.fair or name in fair)
            for name, queue in sorted(queues.items())
        )
        return Topology(tuple(exchanges.values()), tuple(named))

    def _fair(self) -> set[str]:
        """Return the queues in which there are messages of tenants."""
        ways = [(message, names) for message, names, _ in self._ways()]
        ways += [(message, self._queues_of(message, None)) for message in self.messages.values()]
        return {name for message, names in ways if message is not None and message.__spec__.fair for name in names}

    def _types(self) -> dict[str, str]:
        """Return the type of what comes through each queue in which there is only one."""
        found: dict[str, set[str]] = {}
        for message, names, _ in self._ways():
            if message is not None:
                for name in names:
                    found.setdefault(name, set()).add(message.__spec__.name)
        return {name: types.pop() for name, types in found.items() if len(types) == 1}

    def _queues_of(self, message: type[Message], queue: str | None) -> Sequence[str]:
        """Return the queues through which a message comes to a route: that of the route, or its own."""
        if queue is not None:
            return [queue]
        own = self.spec_of(message).queue
        return [] if own is None else expand(message.__name__, own, message)

    def check(self, unmet: Callable[[Handler], list[str]]) -> None:
        """Raise `DefinitionError` for handlers that ask for what nothing provides."""
        for handler in [one for _, _, handlers in self._ways() for one in handlers]:
            missing = unmet(handler)
            if missing:
                raise DefinitionError(
                    f"{handler.origin} asks for {', '.join(missing)}, which nothing provides; add a function with @app.provides"
                )


def _refuse_other_kind_of_message(given: Any, wanted: type[Message], handler: Handler, what: str, other: str) -> None:
    if not isinstance(given, type) or not issubclass(given, Message):
        raise DefinitionError(f"{handler.origin}: {what}, not {given!r}")
    if not issubclass(given, wanted):
        raise DefinitionError(f"{handler.origin}: {what}, and {given.__name__} is none; {other}")


def _pattern_of(event: type[Event], handler: Handler) -> str:
    """Return the pattern of the routing keys by which an event is published: the value of a field may be any number of words."""
    spec = event.__spec__
    pattern = ".".join("#" if fields_of(word) else word for word in (spec.routing_key or spec.name).split("."))
    if "#" in pattern and spec.exchange is not None and spec.exchange.kind == "direct":
        raise DefinitionError(
            f'{handler.origin}: exchange "{spec.exchange.name}" is direct, and the routing key of {event.__name__} depends on its fields: '
            f"no queue can be bound to all of them; make the exchange a topic"
        )
    return pattern


def _refuse_other_annotation(message: type[Message], handler: Handler, does: str) -> None:
    """Raise `DefinitionError` if the first parameter is annotated with a class that the message is none of."""
    if handler.takes and not any(issubclass(message, kind) or (message is Event and issubclass(kind, Event)) for kind in handler.takes):
        taken = " | ".join(kind.__name__ for kind in handler.takes)
        raise DefinitionError(f"{handler.origin} {does} {message.__name__}, but its first parameter is a {taken}")


def _where(thing: Any) -> str:
    return f"{thing.__module__}.{thing.__qualname__}"
