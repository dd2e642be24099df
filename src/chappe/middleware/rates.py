"""Not more starts in a period than allowed, across all workers: the capabilities `rate` and `budget`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from chappe.bounds import FURTHEST, STARTS_AHEAD
from chappe.bus.bus import Handle, Middleware
from chappe.bus.context import Context
from chappe.bus.loops import PerLoop
from chappe.clocks import steady
from chappe.errors import Throttled
from chappe.messages.capabilities import MessageSpec
from chappe.messages.template import renderer

_REMEMBERED: Final = 1000


class Rates(Middleware):
    """Takes a start of each of a message's budgets; a message for which there is none now leaves its slot to the next."""

    def __init__(self) -> None:
        # Until when budgets of an event loop's engine have no room, by the steady clock and by the bus's.
        self._closed = PerLoop(dict[str, tuple[float, float]])

    def wrap_handle(self, spec: MessageSpec, call_next: Handle) -> Handle:
        if not (wanted := _budgets_of(spec)):
            return call_next

        async def limited(message: Any, context: Context) -> Any:
            budgets = {render(message): (interval, burst) for render, interval, burst in wanted}
            context.budgets = {name: interval for name, (interval, _) in budgets.items()}
            for budget in budgets if context.queue else ():  # so that none is taken for nothing
                if (known := self._closed.here().get(budget)) is not None:
                    left = min(known[0] - steady(), known[1] - context.now())  # either may stand still or jump in a test
                    if left > 0:
                        raise Throttled(budget, left, note=context.note)
            within = STARTS_AHEAD if context.queue else FURTHEST  # an inline command has no queue to wait in
            for budget, (interval, burst) in budgets.items():
                start = await context.ports.take(budget, interval, burst, within=within, tag=context.tag)
                if not start.granted:
                    self._remember(budget, start.wait - within, context)
                    raise Throttled(budget, start.wait, note=context.note)
                if start.wait > 0:
                    await asyncio.sleep(start.wait)
            return await call_next(message, context)

        return limited

    def _remember(self, budget: str, seconds: float, context: Context) -> None:
        """Have nobody be asked again before a budget may have room: a long backlog would ask for each of its messages."""
        closed = self._closed.here()
        if len(closed) >= _REMEMBERED:
            closed.clear()
        closed[budget] = (steady() + seconds, context.now() + seconds)


def _budgets_of(spec: MessageSpec) -> list[tuple[Callable[[Any], str], float | None, int]]:
    """Return how the budgets of a message are named and what they allow: that of its rate, which is its own, and those it shares."""
    found: list[tuple[Callable[[Any], str], float | None, int]] = []
    if spec.rate is not None:
        name = f"{spec.name}:{spec.rate.key}" if spec.rate.key else spec.name
        found.append((renderer(name), spec.rate.interval, spec.rate.burst))
    return found + [(renderer(one.name), one.interval, one.burst) for one in spec.budget]
