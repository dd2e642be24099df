"""Several commands handled by one call, those that came together, each with a verdict of its own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Any, Final, NamedTuple, cast

from chappe.bus.context import Context
from chappe.bus.loop import interruption
from chappe.bus.steps import Slot, current_slot, suspended
from chappe.errors import DefinitionError, Snooze
from chappe.messages.capabilities import MessageSpec

Invoke = Callable[[Any, Any], Awaitable[Any]]
_MOST: Final = 500
_LONGEST: Final = 3600.0


class Digest(NamedTuple):
    """At most so many commands in one call, of which the oldest waits at most so many seconds."""

    batch: int
    within: float


def digest_of(origin: str, batch: int | None, within: float) -> Digest | None:
    """Return the digest that `@app.handles` asks for; raises `DefinitionError`."""
    if batch is None:
        return None
    if type(batch) is not int or not 2 <= batch <= _MOST:
        raise DefinitionError(f"{origin}: batch={batch!r} must be a whole number within 2..{_MOST}")
    if type(within) not in (int, float) or not 0 < within <= _LONGEST:
        raise DefinitionError(f"{origin}: within={within!r} must be seconds, more than 0 and at most {_LONGEST:g}")
    return Digest(batch, within)


def refuse_impatient(origin: str, digest: Digest, spec: MessageSpec) -> None:
    """Raise `DefinitionError` for a command that cannot wait for others."""
    if spec.inline:
        raise DefinitionError(f"{origin}: {spec.name} is inline and comes alone; leave out inline=True, or batch=")
    if spec.process is not None:
        raise DefinitionError(f"{origin}: {spec.name} is handled in a process of its own, one by one; leave out process=, or batch=")
    for name, limit in (("timeout", spec.timeout), ("kill_after", spec.kill_after)):
        if limit is not None and limit <= digest.within:
            raise DefinitionError(f"{origin}: {spec.name} waits up to {digest.within:g} s for others, so its {name} must be longer")


class _Outcome(NamedTuple):
    returned: Any
    error: BaseException | None = None
    trace: TracebackType | None = None
    share: float = 0.0  # of the seconds that the call took

    def given(self) -> Any:
        """Return the result of one message, or raise its error, which may be that of others too."""
        if self.error is not None:
            raise self.error.with_traceback(self.trace)
        return self.returned


class _Item(NamedTuple):
    message: Any
    context: Context
    ended: asyncio.Future[_Outcome]
    slot: Slot


class _Group:
    """The commands of one call."""

    def __init__(self, hold: Callable[[int], None]) -> None:
        self.items: list[_Item] = []
        self.held = 0
        self.running: asyncio.Task[None] | None = None
        self.timer: asyncio.TimerHandle | None = None
        self._hold = hold

    def hold(self, count: int) -> None:
        self.held += count
        self._hold(count)

    def executes(self, on: bool) -> None:
        for item in self.items:
            item.slot.step(on)

    def in_thread(self, on: bool) -> None:
        for item in self.items:
            item.slot.in_thread(on)


class Gathering:
    """The handler of a digest in one event loop: gives to each message what became of it in a call for several."""

    def __init__(self, invoke: Invoke, digest: Digest) -> None:
        self._invoke = invoke
        self._digest = digest
        self._open: _Group | None = None

    async def join(self, message: Any, context: Context) -> Any:
        """Handle a message together with those that come until its time is over; alone if it was tried before.

        What fails for all would fail again for all: so the one that is to blame takes no others along a second time.
        """
        if context.attempt > 1:
            return _each(await self._invoke([message], [context]), 1)[0].given()
        here, loop, joined = current_slot.get(), asyncio.get_running_loop(), time.monotonic()
        group = self._open
        left = self._digest.within - context.age
        if group is None:
            group = self._open = _Group(here.hold)
            opened = group
            group.timer = here.leave_later(min(left, self._digest.within), lambda: self._leave(opened))
        item = _Item(message, context, loop.create_future(), here)
        group.items.append(item)
        group.hold(1)
        if len(group.items) == self._digest.batch:
            self._leave(group)
        try:
            outcome = await item.ended
            context.waited = time.monotonic() - joined - outcome.share
        except asyncio.CancelledError:
            await self._withdraw(group, item)
            if group.running is None and isinstance(interruption(), asyncio.CancelledError):
                raise Snooze(max(0.0, self._digest.within - context.age), note=context.note) from None
            raise
        return outcome.given()

    def _leave(self, group: _Group) -> None:
        """Handle what has come; nothing if all have left meanwhile."""
        if self._open is group:
            self._open = None
        if group.timer is not None:
            group.timer.cancel()
        if group.items and group.running is None:
            group.hold(-1)
            group.running = asyncio.get_running_loop().create_task(self._run(group))

    async def _withdraw(self, group: _Group, item: _Item) -> None:
        """Have a message whose attempt was ended from outside be in no call any more; the last one ends the call."""
        group.items.remove(item)
        if group.held:
            group.hold(-1)
        if group.items:
            return
        self._leave(group)
        if group.running is not None:
            group.running.cancel()
            await asyncio.wait((group.running,))

    async def _run(self, group: _Group) -> None:
        together = list(group.items)
        current_slot.set(current_slot.get()._replace(in_thread=group.in_thread))
        began = time.monotonic()
        try:
            outcomes = _each(await self._stepped(group, together), len(together))
        except BaseException as error:  # whatever a handler raises is what all of its messages have failed by
            outcomes = [_Outcome(None, error, error.__traceback__)] * len(together)
        group.hold(-group.held)
        share = (time.monotonic() - began) / len(together)
        for item, outcome in zip(together, outcomes, strict=True):
            if not item.ended.done():
                item.ended.set_result(outcome._replace(share=share))

    async def _stepped(self, group: _Group, together: Sequence[_Item]) -> Any:
        handling: Any = self._invoke([item.message for item in together], [item.context for item in together])
        group.executes(True)
        try:
            waits_for = handling.send(None)
        except StopIteration as ended:
            return ended.value
        return await suspended(handling, waits_for, group.executes)


def _each(returned: Any, count: int) -> list[_Outcome]:
    """Return for each message its result or its error, from what the handler of all returned; raises `TypeError`."""
    if returned is None:
        return [_Outcome(None)] * count
    outcomes: list[Any] = cast("Any", returned) if isinstance(returned, list) else []
    if len(outcomes) != count:
        raise TypeError(
            f"a handler of a batch returns nothing, or a list with a result or an error for each of its {count} commands, "
            f"not a {type(cast('object', returned)).__name__} of {len(outcomes)}"
        )
    return [_Outcome(None, one) if isinstance(one, BaseException) else _Outcome(one) for one in outcomes]
