"""Finds one message wherever it is, and says why it does not run: by the contracts alone, so that it is the same on every engine."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import aclosing

from chappe.engines.contract.fleet import QueueStatus
from chappe.engines.contract.inspection import STATES, MessageStatus
from chappe.engines.contract.store import Store
from chappe.engines.why import Facts, Reason, why

Takes = Callable[[str, str], bool]


async def pages(store: Store, queues: Iterable[QueueStatus], text: str) -> AsyncGenerator[list[MessageStatus]]:
    """Yield, page by page, the messages of queues whose stored envelope has a text somewhere in it; a page may be empty.

    It takes as long as looking through what waits does where no index helps: about a second for a million.
    """
    for queue in queues:
        for state in STATES:
            cursor: str | None = "" if getattr(queue, state) or queue.is_estimate else None
            while cursor is not None:
                page = await store.look(queue.name, state, containing=(text.encode(),), cursor=cursor, limit=100)
                yield page.messages
                cursor = page.cursor


async def find(store: Store, message_id: str, *, queue: str | None = None) -> list[MessageStatus]:
    """Return a message in each queue where it is, or in `queue`; several subscribers may have one event."""
    found: list[MessageStatus] = []
    for one in (await store.overview()).queues:
        if queue is not None and one.name != queue:
            continue
        async with aclosing(pages(store, [one], message_id)) as looked:
            async for messages in looked:
                same = [message for message in messages if message.envelope.id == message_id]
                found += same
                if same:
                    break  # a queue has a message once
    return found


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
