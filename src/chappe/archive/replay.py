"""Archived events once more to one subscriber, and to nobody else."""

from __future__ import annotations

from typing import Final, Literal

from msgspec.structs import replace as changed

from chappe.archive.follow import AT_ONCE, Since, begin_at
from chappe.bus.context import REPLAYED
from chappe.engines.contract.archive import Record
from chappe.engines.contract.broker import Broker
from chappe.engines.contract.fleet import QueueStatus
from chappe.engines.contract.store import Store
from chappe.errors import NotFound
from chappe.messages.envelope import Options, Publication
from chappe.messages.topology import passes

Kind = Literal["direct", "topic", "fanout"]

_TWICE: Final = "replay {run} {queue} {seq}"  # the idempotency key of each: what is said again after a lost answer is not heard twice


async def replay(broker: Broker, store: Store, queue: str, since: Since | None, *, until: int | None = None, run: str) -> int:
    """Put into a queue what its bindings took since then, up to the end of the archive as it is now, and say how many that were.

    Each message has the header `replayed` with its `seq`. `run` names this replay: one that broke off goes on under the same name
    without doubles. Raises `NotFound` for a queue that is not declared, or is bound to nothing.
    """
    overview = await store.overview()
    found = next((known for known in overview.queues if known.name == queue), None)
    if found is None:
        raise NotFound(f'no queue is called "{queue}"; declared are: {", ".join(known.name for known in overview.queues) or "none"}')
    if not found.bindings:
        raise NotFound(f'queue "{queue}" is bound to no exchange: nothing says which events it takes')
    kinds: dict[str, Kind] = {exchange.name: exchange.kind for exchange in overview.exchanges}
    position, end, count = await begin_at(store, since), (await store.archived(0, 0)).end, 0
    end = end if until is None else min(until, end)
    while position < end:
        page = await store.archived(position, AT_ONCE)
        fitting = [record for record in page.records if record.seq <= end and _takes(found, kinds, record)]
        if fitting:
            await broker.publish([_again(record, queue, run) for record in fitting])
        position, count = page.cursor, count + len(fitting)
    return count


def _takes(queue: QueueStatus, kinds: dict[str, Kind], record: Record) -> bool:
    return any(
        exchange == record.exchange and passes(kinds.get(exchange, "topic"), key, record.routing_key) for exchange, key in queue.bindings
    )


def _again(record: Record, queue: str, run: str) -> Publication:
    envelope = changed(record.envelope, headers={**record.envelope.headers, REPLAYED: str(record.seq)})
    return Publication(envelope, queue, options=Options(idempotency_key=_TWICE.format(run=run, queue=queue, seq=record.seq)))
