"""What a publication that returned has promised."""

from __future__ import annotations

import asyncio
import os
import uuid

import pytest

from chappe.engines.contract.broker import Ack
from chappe.errors import KeyReused, Unroutable
from chappe.messages.capabilities import Exchange
from chappe.messages.envelope import Envelope, Publication
from chappe.messages.topology import Topology, bind

from .engine import EngineUnderTest, Peer
from .scenes import ack, declare, depth_becomes, drain, envelope, event, gather, names, one, send, settle, to


@pytest.fixture(autouse=True)
async def queue(peer: Peer) -> None:
    await declare(peer, "q")


async def test_receipts_come_in_the_order_of_the_publications(peer: Peer) -> None:
    publications = [to("q", str(n)) for n in range(20)]
    receipts = await peer.broker.publish(publications)
    assert [(r.id, r.outcome, r.version, r.pending) for r in receipts] == [(p.envelope.id, "stored", None, None) for p in publications]


async def test_nothing_published_is_answered_with_no_receipts(peer: Peer) -> None:
    assert await peer.broker.publish([]) == []


async def test_an_unknown_queue_is_unroutable_and_named(peer: Peer) -> None:
    with pytest.raises(Unroutable, match="missing"):
        await peer.broker.publish([to("missing")])


async def test_one_unroutable_publication_keeps_all_of_its_batch_from_being_stored(engine: EngineUnderTest, peer: Peer) -> None:
    with pytest.raises(Unroutable):
        await peer.broker.publish([to("q", "a"), to("missing", "b"), to("q", "c", tracked=True, unique="u", idempotency_key="i")])
    assert await drain(engine, peer, "q") == []
    await send(peer, to("q", "d", unique="u", idempotency_key="i"))


async def test_one_reused_key_keeps_all_of_its_batch_from_being_stored(engine: EngineUnderTest, peer: Peer) -> None:
    await send(peer, to("q", "first", idempotency_key="i", fingerprint="x"))
    with pytest.raises(KeyReused):
        await peer.broker.publish([to("q", "a"), to("q", "b", idempotency_key="i", fingerprint="y"), to("q", "c", delay=5.0)])
    assert await drain(engine, peer, "q") == ["first"]
    assert (await peer.broker.depth("q")).delayed == 0


async def test_messages_of_one_batch_come_in_their_order(engine: EngineUnderTest, peer: Peer) -> None:
    sent = [str(n) for n in range(50)]
    await send(peer, *[to("q", n) for n in sent])
    assert await drain(engine, peer, "q") == sent


async def test_messages_of_several_calls_come_in_their_order(engine: EngineUnderTest, peer: Peer) -> None:
    sent = [str(n) for n in range(15)]
    for n in sent:
        await send(peer, to("q", n))
    assert await drain(engine, peer, "q") == sent


async def test_messages_of_several_peers_come_in_the_order_of_their_receipts(engine: EngineUnderTest, peer: Peer) -> None:
    other = await engine.connect()
    for n in range(10):
        await send((peer, other)[n % 2], to("q", str(n)))
    assert await drain(engine, peer, "q") == [str(n) for n in range(10)]


async def test_what_many_peers_publish_at_once_all_arrives_each_in_its_own_order(engine: EngineUnderTest, peer: Peer) -> None:
    async def publish(number: int) -> None:
        sender = await engine.connect()
        for n in range(10):
            await send(sender, to("q", f"{number}.{n}"))

    await asyncio.gather(*[publish(n) for n in range(5)])
    found = await drain(engine, peer, "q")
    assert len(found) == 50
    for number in range(5):
        assert [n for n in found if n.startswith(f"{number}.")] == [f"{number}.{n}" for n in range(10)]


async def test_larger_priorities_come_first_and_equal_ones_in_order(engine: EngineUnderTest, peer: Peer) -> None:
    wanted = [("a", 0), ("b", 9), ("c", 5), ("d", 9), ("e", 0), ("f", 1)]
    await send(peer, *[to("q", n, priority=p) for n, p in wanted])
    assert await drain(engine, peer, "q") == ["b", "d", "c", "f", "a", "e"]


async def test_priorities_order_one_answer_of_many(peer: Peer) -> None:
    await send(peer, *[to("q", str(p), priority=p) for p in (3, 1, 2, 0)])
    async with peer.broker.consume(["q"], prefetch=10) as consumer:
        assert names(await gather(consumer, 4)) == ["3", "2", "1", "0"]


async def test_a_later_message_of_larger_priority_overtakes_those_that_wait(peer: Peer) -> None:
    await send(peer, *[to("q", str(n)) for n in range(4)])
    async with peer.broker.consume(["q"], prefetch=10) as consumer:
        first = await gather(consumer, 2)
        await send(peer, to("q", "urgent", priority=1))
        assert names(first + await gather(consumer, 3)) == ["0", "1", "urgent", "2", "3"]


async def test_a_later_message_of_smaller_priority_comes_after_a_used_up_larger_one(engine: EngineUnderTest, peer: Peer) -> None:
    await send(peer, to("q", "high", priority=5))
    assert await drain(engine, peer, "q") == ["high"]
    await send(peer, to("q", "low"), to("q", "high again", priority=5))
    assert await drain(engine, peer, "q") == ["high again", "low"]


@pytest.mark.parametrize(
    "body",
    [b"", b"\x00", bytes(range(256)), "grüße, 世界 🌍".encode(), b"x" * (1 << 20)],
    ids=["empty", "nul", "all-bytes", "unicode", "1-MiB"],
)
async def test_a_body_arrives_as_it_was_sent(peer: Peer, body: bytes) -> None:
    await send(peer, Publication(envelope("m", body=body), "q"))
    async with peer.broker.consume(["q"], prefetch=1) as consumer:
        assert (await one(consumer)).envelope.body == body


async def test_many_large_bodies_arrive_in_one_answer(peer: Peer) -> None:
    bodies = [bytes([n]) * 200_000 for n in range(10)]
    await send(peer, *[Publication(envelope("m", body=body), "q") for body in bodies])
    async with peer.broker.consume(["q"], prefetch=10) as consumer:
        assert [d.envelope.body for d in await gather(consumer, 10)] == bodies


async def test_an_envelope_arrives_with_every_field(peer: Peer) -> None:
    sent = Envelope(
        "the-id",
        "property.sync",
        b"\x93\x01\x02\x03",
        1234.5,
        "application/msgpack",
        {"traceparent": "00-ab-cd-01", "näme": "wörld 🌍", "empty": ""},
        "correlation",
        "answers",
    )
    await send(peer, Publication(sent, "q"))
    async with peer.broker.consume(["q"], prefetch=1) as consumer:
        delivery = await one(consumer)
        assert (delivery.envelope, delivery.queue, delivery.attempt, delivery.note) == (sent, "q", 1, None)


async def test_names_of_queues_and_keys_may_be_unicode(engine: EngineUnderTest, peer: Peer) -> None:
    await declare(peer, "öffnen-世界")
    await send(peer, to("öffnen-世界", "a", key="schlüssel-🌍"))
    assert await drain(engine, peer, "öffnen-世界") == ["a"]


async def test_a_thousand_messages_are_published_in_one_call(peer: Peer) -> None:
    await send(peer, *[to("q", str(n)) for n in range(1000)])
    async with peer.broker.consume(["q"], prefetch=1000) as consumer:
        got = await gather(consumer, 1000)
        assert names(got) == [str(n) for n in range(1000)]
        await ack(consumer, *got)
    assert (await peer.broker.depth("q")).ready == 0


async def test_an_exchange_that_archives_needs_no_taker(peer: Peer) -> None:
    await peer.broker.declare(Topology((Exchange("kept", archive=3600.0),)))
    await send(peer, event("kept", "nobody.listens", "a"))
    assert [r.envelope.body for r in (await peer.store.archived(0, 10)).records] == [b"a"]


async def test_an_exchange_that_does_not_archive_needs_a_taker(peer: Peer) -> None:
    await peer.broker.declare(Topology((Exchange("plain"),), (bind("taker", "plain:a.*"),)))
    with pytest.raises(Unroutable, match=r"b\.c"):
        await peer.broker.publish([event("plain", "b.c")])


async def test_an_exchange_that_was_not_declared_is_unroutable(peer: Peer) -> None:
    with pytest.raises(Unroutable, match="missing"):
        await peer.broker.publish([event("missing", "a")])


@pytest.mark.parametrize("megabytes", [10, pytest.param(100, marks=pytest.mark.proof)])
async def test_a_large_body_comes_back_whole(peer: Peer, megabytes: int) -> None:
    """Row T13: no message is refused for its size where beanstalk says JOB_TOO_BIG."""
    await declare(peer, "q")
    body = os.urandom(1024 * 1024) * megabytes
    await send(peer, Publication(Envelope(f"large-{uuid.uuid4().hex}", "test.message", body), "q"))
    async with peer.broker.consume(["q"], prefetch=1) as consumer:
        (delivery,) = await gather(consumer, 1)
        assert delivery.envelope.body == body
        await settle(consumer, Ack(delivery.tag))
    await depth_becomes(peer, "q")
