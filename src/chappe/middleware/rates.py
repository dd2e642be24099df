"""Not more starts in a period than allowed, across all workers: the capability `rate`."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from chappe.bus.bus import Handle, Middleware
from chappe.bus.context import Context
from chappe.errors import Snooze
from chappe.messages.capabilities import MessageSpec
from chappe.messages.template import renderer

RESERVED: Final = "rate"
_WORTH_A_SLOT: Final = 0.02


class Rates(Middleware):
    """Reserves the next start of a message's budget; a message whose turn is later waits without a slot."""

    def wrap_handle(self, spec: MessageSpec, call_next: Handle) -> Handle:
        rate = spec.rate
        if rate is None:
            return call_next
        interval, burst = rate.interval, rate.burst
        render = renderer(f"{spec.name}:{rate.key}" if rate.key else spec.name)

        async def limited(message: Any, context: Context) -> Any:
            if context.note != RESERVED:
                wait = await context.ports.take(render(message), interval, burst)
                if wait > _WORTH_A_SLOT and context.queue:  # an inline command has no queue to wait in
                    raise Snooze(wait, "its rate is used up", note=RESERVED)
                if wait > 0:
                    await asyncio.sleep(wait)
            return await call_next(message, context)

        return limited
