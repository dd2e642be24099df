"""The messages of a batch are counted by how they ended."""

from __future__ import annotations

import msgspec

from chappe.bus.draft import new_id
from chappe.engines.contract.broker import Ack, Dead, Retry

from .engine import Peer
from .scenes import declare, one, send, settle, to

A, SHORT = f"{new_id()}.12", f"{new_id()}.1"


async def store(peer: Peer, batch: str, count: int) -> None:
    publications = [to("q", f"{n}", tracked=True) for n in range(count)]
    renamed = [
        msgspec.structs.replace(p, envelope=msgspec.structs.replace(p.envelope, id=f"{batch}.{n}")) for n, p in enumerate(publications)
    ]
    await send(peer, *renamed)


async def test_the_messages_of_a_batch_are_counted_as_waiting_done_or_dead(peer: Peer) -> None:
    await declare(peer, "q")
    await store(peer, A, 12)
    await store(peer, SHORT, 1)
    assert dict(await peer.store.batch(A)) == {"waiting": 12}
    async with peer.broker.consume(["q"], prefetch=5) as consumer:
        lent = [await one(consumer) for _ in range(4)]
        assert dict(await peer.store.batch(A)) == {"waiting": 12}
        await settle(consumer, Ack(lent[0].tag), Dead(lent[1].tag, "broken"), Retry(lent[2].tag, after=1000.0), Ack(lent[3].tag))
        assert dict(await peer.store.batch(A)) == {"waiting": 9, "done": 2, "dead": 1}
    assert dict(await peer.store.batch(SHORT)) == {"waiting": 1}


async def test_a_dead_letter_that_is_retried_waits_again(peer: Peer) -> None:
    await declare(peer, "q")
    await store(peer, SHORT, 1)
    async with peer.broker.consume(["q"], prefetch=1) as consumer:
        await settle(consumer, Dead((await one(consumer)).tag, "broken"))
    assert dict(await peer.store.batch(SHORT)) == {"dead": 1}
    await peer.store.retry_letters([letter.number for letter in await peer.store.letters()])
    assert dict(await peer.store.batch(SHORT)) == {"waiting": 1}


async def test_a_batch_that_nobody_stored_counts_nothing(peer: Peer) -> None:
    assert dict(await peer.store.batch(SHORT)) == {}


async def test_the_latest_batches_are_listed_first_and_messages_alone_are_none(peer: Peer) -> None:
    assert await peer.store.batches() == []
    await declare(peer, "q")
    batches = [f"{new_id()}.{count}" for count in (3, 12, 1, 2)]
    for batch in batches:
        await store(peer, batch, int(batch.rpartition(".")[2]))
        await send(peer, to("q", "alone", tracked=True))
    assert await peer.store.batches() == batches[::-1]
    assert await peer.store.batches(limit=2) == batches[:1:-1]
    assert await peer.store.batches(batches[2], limit=50) == batches[1::-1]
