"""The few verbs that every broker keeps; `tests/contract` tests each sentence on each of them.

Times are seconds. All verbs raise `BrokerUnavailable` if nobody answers within their deadline, or `Unconfirmed`
where one that changes something was said and may have been done, and never hang.
A *broker* here travels together with its *store* (`chappe.engines.contract.store`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final, Protocol

from msgspec import Struct

from chappe.bounds import Number, Seconds
from chappe.messages.envelope import Envelope, Publication, Receipt
from chappe.messages.finding import Finding
from chappe.messages.topology import Queue, Topology


class Delivery(Struct, frozen=True, array_like=True, gc=False):
    """A message lent to one consumer, until it settles it or is lost itself.

    `attempt` counts from 1. `note` is what an earlier `Retry` left.
    """

    tag: int
    queue: str
    attempt: int
    envelope: Envelope
    note: str | None = None


class Ack(Struct, frozen=True, array_like=True, gc=False, tag="ack"):
    """Done: it never comes back, and `then` is published with it or not at all.

    `result` is kept if the message is tracked, or `error`, why there is none; `marked` says that handlers left marks to be forgotten.
    `took` are the seconds that it ran, in every settlement: its tenant is charged with them, or else with the time since it was lent.
    """

    delivery: int
    then: tuple[Publication, ...] = ()
    result: bytes | None = None
    marked: bool = False
    error: str | None = None
    took: Seconds | None = None


class Retry(Struct, frozen=True, array_like=True, gc=False, tag="retry"):
    """Ready again after `after` seconds; `counted` says whether this attempt is spent.

    `error` is remembered in the history of the message, `note` comes with the next delivery. With a `budget` it waits until that has
    room, `after` or not: then it is ready at its old place, no more than there is room for, those of larger priorities first.
    """

    delivery: Number
    after: Seconds = 0.0
    counted: bool = True
    error: str | None = None
    note: str | None = None
    budget: str | None = None
    took: Seconds | None = None


class Dead(Struct, frozen=True, array_like=True, gc=False, tag="dead"):
    """A dead letter: kept with its reason, error and history until somebody retries or discards it."""

    delivery: Number
    reason: str
    error: str | None = None
    took: Seconds | None = None


Settlement = Ack | Retry | Dead


class Refusal(Struct, frozen=True, array_like=True):
    """Why one settlement was refused: *stale* (somebody else has it), *unroutable* or *pending* (see `Receipt`).

    After *unroutable* and *pending* the delivery is still the consumer's, to settle in another way; `receipts` are then
    those of each publication of `then`, in order.
    """

    delivery: int
    why: str
    text: str = ""
    receipts: tuple[Receipt, ...] = ()


class Depth(Struct, frozen=True, array_like=True):
    """How many messages of a queue are in each state; a message is counted in exactly one."""

    ready: int = 0
    running: int = 0
    delayed: int = 0
    dead: int = 0


DIED: Final = "its worker died while it ran this"


class Death(Struct, frozen=True):
    """The death of a worker of this host, by the name of its table, and the deliveries that may have caused it.

    `is_sure` is false where nothing executed: the worker was most likely killed from outside. Where it ended itself because a message
    ran out of its time, `after` are the seconds until that is tried again, unless `is_last`.
    """

    worker: str
    deliveries: tuple[int, ...]
    error: str = DIED
    is_sure: bool = True
    after: float | None = None
    is_last: bool = False


class Consumer(Protocol):
    """A receiver of deliveries; when it is closed or lost, what it holds is ready again at its old place."""

    async def receive(self, limit: int, wait: float) -> list[Delivery]:
        """Return up to `limit` deliveries, larger priorities first, then in the order of publishing.

        Of one priority, the tenant is next whose messages have had least of the workers' time, by its weight (`Fleet.desire`); those of
        a queue that have no tenant are one. Answers as soon as there is one, or with an empty list after `wait` seconds (at once when
        the prefetch is used up). Never more are out than the prefetch allows. A key that is running is never given to anybody else.
        """
        ...

    async def settle(self, settlements: Sequence[Settlement]) -> list[Refusal]:
        """End deliveries; what is not in the answer is durable when this returns.

        After `BrokerUnavailable` or `Unconfirmed` say it again: what was settled meanwhile is refused as *stale*.
        """
        ...

    def holds(self, delivery: int) -> bool:
        """Tell whether a delivery is still this consumer's, as far as it has heard."""
        ...

    def on_cancel(self, told: Callable[[int], None]) -> None:
        """Have each delivery be told that somebody cancels while it is out: it goes on until it is settled."""
        ...

    def stop(self) -> None:
        """Have a waiting `receive` answer at once."""
        ...

    def resize(self, prefetch: int) -> None:
        """Change how many deliveries may be out; what is out already stays."""
        ...


class Publisher(Protocol):
    """Publishes for threads without an event loop."""

    def takes(self, publications: Sequence[Publication]) -> bool:
        """Tell whether this thread can publish these now; if not, they go through an event loop, which waits or finds another way."""
        ...

    async def publish(self, publications: Sequence[Publication]) -> list[Receipt]:
        """See `Broker.publish`; it blocks and never suspends, so that it can be stepped without an event loop."""
        ...

    def close(self) -> None:
        """Close the connections of all threads."""
        ...


class Broker(Protocol):
    """Where messages wait."""

    async def declare(self, topology: Topology) -> None:
        """Make exchanges, queues and bindings exist. Safe to repeat.

        Raises `TopologyConflict`, naming both declarations, if one exists with other bindings or another kind.
        """
        ...

    async def publish(self, publications: Sequence[Publication]) -> list[Receipt]:
        """Store messages; when this returns they survive `kill -9` of every process.

        All that are new are stored or none (a *duplicate* is there already, a *pending* one must be merged first):
        raises `Unroutable`, `KeyReused` or another `Rejected` (nothing is stored),
        or `Unconfirmed` (it may be stored or not: only an idempotency key makes it safe to say again).
        On an exchange that archives, nobody needs to be bound. Receipts come in the order of the publications.
        """
        ...

    def consume(self, queues: Sequence[str], *, prefetch: int, temporary: Sequence[Queue] = ()) -> AbstractAsyncContextManager[Consumer]:
        """Open a consumer of these queues, served in turn. Raises `NotFound` for an undeclared queue.

        A *temporary* queue is this consumer's alone: it is there when this returns, and goes with the consumer and all that is in
        it. So it does with a connection that is lost; it is made anew, and what came meanwhile is missed. What is retried waits as
        long as the consumer is there, and what is dead is dropped.
        """
        ...

    async def blame(self, death: Death) -> None:
        """Hear of a worker that died, and have what it executed run alone from now on; a message that kills three is a dead letter."""
        ...

    async def depth(self, queue: str) -> Depth:
        """Count the messages of a queue. Raises `NotFound`."""
        ...

    async def purge(self, queue: str, *, delete: bool = False) -> int:
        """Delete what is ready and delayed, not what is running or dead, and say how many.

        `delete` removes the queue and its bindings too, and is refused while messages are running or dead.
        """
        ...

    async def cancel(self, message_id: str) -> str:
        """Have a message not be handled, and return in which state it was: what was *delayed* or *ready* is gone when this returns.

        Of what is *running* its consumer is told, which ends it as soon as it can. Raises `NotFound` for what is nowhere any more.
        """
        ...

    async def preflight(self) -> list[Finding]:
        """Look for what would break a promise at a server of somebody else's; there is none where the engine is ours."""
        ...

    async def close(self) -> None:
        """Close the connection; what consumers held is ready again."""
        ...


__all__ = ["Ack", "Broker", "Consumer", "Dead", "Delivery", "Depth", "Receipt", "Refusal", "Retry", "Settlement"]
