"""Not more starts in a period than allowed, across all workers: the capability `rate`."""

from __future__ import annotations

import asyncio
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
    """Takes a start of a message's budget; a message for which there is none now leaves its slot to the next."""

    def __init__(self) -> None:
        # Until when budgets of an event loop's engine have no room, by the steady clock and by the bus's.
        self._closed = PerLoop(dict[str, tuple[float, float]])

    def wrap_handle(self, spec: MessageSpec, call_next: Handle) -> Handle:
        rate = spec.rate
        if rate is None:
            return call_next
        interval, burst = rate.interval, rate.burst
        render = renderer(f"{spec.name}:{rate.key}" if rate.key else spec.name)

        async def limited(message: Any, context: Context) -> Any:
            budget = context.budget = render(message)
            if (known := self._closed.here().get(budget)) is not None:
                left = min(known[0] - steady(), known[1] - context.now())  # either may stand still or jump in a test
                if left > 0 and context.queue:
                    raise Throttled(budget, left, note=context.note)
            within = STARTS_AHEAD if context.queue else FURTHEST  # an inline command has no queue to wait in
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
