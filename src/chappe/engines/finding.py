"""Says why messages do not run: by the contracts alone, so that it is the same on every engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from chappe.engines.contract.inspection import MessageStatus
from chappe.engines.contract.store import Store
from chappe.engines.why import Facts, Reason, why

Takes = Callable[[str, str], bool]


async def explain(store: Store, messages: Sequence[MessageStatus], now: float, takes: Takes) -> list[list[Reason]]:
    """Return for each message every reason why it does not run; `takes` tells whether a release handles a type in a queue."""
    overview = await store.overview()
    queues = {queue.name: queue for queue in overview.queues}
    told: list[list[Reason]] = []
    for message in messages:
        waits = message.state == "ready" or message.budget is not None
        ahead = await store.ahead(message.queue, message.place) if waits else 0
        queue = queues[message.queue]
        facts = Facts(now, queue, ahead, overview.supervisors, bool(queue.bindings) or takes(queue.name, message.envelope.type))
        told.append(why(message, facts))
    return told
