"""What a handler may know about the delivery it works on."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, Final, TypeAlias

import msgspec

from chappe.bus.draft import Draft, draft_of, listed
from chappe.bus.loops import run_at
from chappe.clocks import wall
from chappe.engines.contract.results import Start
from chappe.errors import DefinitionError, TooLate
from chappe.messages.envelope import NO_HEADERS, Publication
from chappe.messages.message import Message

Leaving: TypeAlias = list[tuple[Message, Draft] | Publication]

REPLAYED: Final = "replayed"  # the header of an event that came by a replay, with its place in the archive
_ENDING: Final = threading.Lock()  # one for all: it is held for no longer than it takes to append to a list


async def _nothing(*_: object) -> None: ...


async def _no_marks(_: str) -> Mapping[str, bytes | None]:
    return {}


async def _no_mark(*_: object) -> bool:
    return False


async def _no_wait(*_: object, **__: object) -> Start:
    return Start(granted=True, wait=0.0)


class Ports(msgspec.Struct, frozen=True):
    """The few things that handling needs from the store, so that the bus runs without one.

    `mark` remembers durably that a handler finished, publishes what was sent so far with it, and says so. `declare` makes known to the
    engine what was prepared since; it raises `TopologyConflict` or `NotFound` for what cannot be. They are to be called on `loop`,
    where one is given.
    """

    mark: Callable[[str, str, Leaving, Any], Awaitable[bool]] = _no_mark
    marks: Callable[[str], Awaitable[Mapping[str, bytes | None]]] = _no_marks
    progress: Callable[[str, int, int, str], Coroutine[Any, Any, None]] = _nothing
    take: Callable[..., Awaitable[Start]] = _no_wait
    throttle: Callable[[str, float | None], Coroutine[Any, Any, None]] = _nothing
    declare: Callable[[], Awaitable[object]] = _nothing
    loop: asyncio.AbstractEventLoop | None = None


NO_PORTS: Final = Ports()


class Context(msgspec.Struct, eq=False, weakref=True):
    """One attempt at one message, the same wherever the message came from.

    `attempt` counts from 1. `then` holds what the handlers sent and yielded so far. `tag` is its number while it is lent, 0 for none,
    and `budgets` are those of which it took a start, with the seconds between two, or nothing where that is learned. `limit` is its
    time limit while it runs, and `on_send` is called with the draft of each message that is sent through it, when it is sent.
    """

    id: str
    attempt: int = 1
    queue: str = ""
    sent_at: float = 0.0
    headers: Mapping[str, str] = NO_HEADERS
    correlation_id: str | None = None
    note: str | None = None
    ports: Ports = NO_PORTS
    now: Callable[[], float] = wall
    tag: int = 0
    then: Leaving = []
    marked: bool = False
    budgets: dict[str, float | None] = {}
    waited: float = 0.0
    limit: asyncio.Timeout | None = None
    on_send: Callable[[Draft], None] | None = None
    _ended: bool = False

    def __repr__(self) -> str:  # nothing of what the message says
        return f"Context({self.id!r}, attempt={self.attempt}, queue={self.queue!r})"

    @property
    def is_replayed(self) -> bool:
        """Whether this is an event of the past that somebody has replayed to this subscriber."""
        return REPLAYED in self.headers

    @property
    def age(self) -> float:
        """The seconds since the message was sent; 0 if its sender did not say when."""
        return self.now() - self.sent_at if self.sent_at else 0.0

    def idempotency_key(self, effect: str = "") -> str:
        """Return a key that is the same in every attempt, to send to third parties with an effect."""
        return f"{self.id}:{effect}" if effect else self.id

    def send(
        self,
        message: Message | Sequence[Message],
        *,
        delay: float | None = None,
        priority: int | None = None,
        idempotency_key: str | None = None,
    ) -> None:
        """Have a message, or several, leave together with the acknowledgement, or not at all; from any thread.

        Raises `TooLate` after the handlers have ended, `DefinitionError` for an inline command, `InvalidMessage`.
        """
        messages, many = listed(message)
        if many and idempotency_key is not None:
            raise DefinitionError("context.send: one idempotency_key cannot stand for several messages; send each with its own")
        drafts = [draft_of(one, delay=delay, priority=priority, idempotency_key=idempotency_key) for one in messages]
        for one, draft in zip(messages, drafts, strict=True):
            if one.__spec__.inline:
                raise DefinitionError(
                    f"{type(one).__name__} is inline, so it cannot wait for the acknowledgement; handle it now with await app.asend(…)"
                )
            draft.correlation_id = self.correlation_id or self.id
            if self.on_send is not None:
                self.on_send(draft)
        with _ENDING:
            if self._ended:
                raise TooLate(f"context.send: the handlers of {self.id} have ended, and what they sent has left; use app.send(…) instead")
            self.then.extend(zip(messages, drafts, strict=True))

    def end(self) -> None:
        """Take no more messages: what is in `then` now is what leaves."""
        with _ENDING:
            self._ended = True

    def take(self) -> Leaving:
        """Return what was sent so far, to leave before the end, and begin anew."""
        with _ENDING:
            taken, self.then = self.then, []
        return taken

    def give_back(self, taken: Leaving) -> None:
        """Put back what was taken and could not leave, before what was sent meanwhile."""
        with _ENDING:
            self.then[:0] = taken

    def throttle(self, seconds: float | None = None, budget: str | None = None) -> Awaitable[None]:
        """Have nothing more of a budget of this message start for so long, in any worker: a third party refused a call.

        `budget` is its name where the message has several. One without a limit learns by it how often it may be called; it needs no
        `seconds`, if the third party did not say. Await it in `async def` code, as `progress`. Raises `DefinitionError`.
        """
        names = ", ".join(f'"{name}"' for name in self.budgets)
        if budget is None and len(self.budgets) == 1:
            (budget,) = self.budgets
        if budget is None or budget not in self.budgets:
            which = (
                f"say which budget: {names}" if names else "this message has no budget; declare it with rate=Rate(…) or budget=Budget(…)"
            )
            raise DefinitionError(f"context.throttle: {which}")
        if seconds is None and self.budgets[budget] is not None:
            raise DefinitionError(f'context.throttle: say for how many seconds, since "{budget}" has a limit and learns none')
        return run_at(self.ports.loop, self.ports.throttle(budget, None if seconds is None else self.now() + seconds))

    def progress(self, done: int, total: int, text: str = "") -> Awaitable[None]:
        """Show how far this message is, to whoever asks for it by id.

        Await it in `async def` code; in a thread, as in a `def` handler, it is shown when this returns.
        """
        whole = all(isinstance(number, int) and -(2**63) <= number < 2**63 for number in (done, total))  # pyright: ignore[reportUnnecessaryIsInstance]
        if not whole or not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"context.progress takes two whole numbers and a text, not {done!r}, {total!r} and {text!r}")
        return run_at(self.ports.loop, self.ports.progress(self.id, done, total, text))
