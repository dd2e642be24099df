"""The same idempotency key with the same fingerprint is stored once, for a day."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from chappe.engines.contract.broker import Ack, Depth
from chappe.errors import KeyReused
from chappe.messages.envelope import Publication

from .engine import EngineUnderTest, Peer
from .scenes import declare, drain, needs_moving_time, one, send, settle, to


@pytest.fixture(autouse=True)
async def queue(peer: Peer) -> None:
    await declare(peer, "q", "r")


def once(text: str, fingerprint: str | None = "f", key: str = "i", queue: str = "q") -> Publication:
    return to(queue, text, idempotency_key=key, fingerprint=fingerprint)


@pytest.mark.parametrize("fingerprint", ["f", "", None])
async def test_the_same_key_and_fingerprint_is_a_duplicate_with_the_first_id(
    engine: EngineUnderTest, peer: Peer, fingerprint: str | None
) -> None:
    (first,) = await send(peer, once("a", fingerprint))
    for _ in range(3):
        (receipt,) = await peer.broker.publish([once("b", fingerprint)])
        assert (receipt.id, receipt.outcome) == (first.id, "duplicate")
    assert await drain(engine, peer, "q") == ["a"]


async def test_the_same_key_with_another_fingerprint_is_refused_by_name_and_nothing_is_stored(engine: EngineUnderTest, peer: Peer) -> None:
    (first,) = await send(peer, once("a"))
    with pytest.raises(KeyReused, match='"i"'):
        await peer.broker.publish([once("b", "other")])
    assert [(r.id, r.outcome) for r in await peer.broker.publish([once("c")])] == [(first.id, "duplicate")]
    assert await drain(engine, peer, "q") == ["a"]


async def test_other_keys_are_independent(engine: EngineUnderTest, peer: Peer) -> None:
    await send(peer, once("a"), once("b", key="j"), to("q", "c"))
    assert await drain(engine, peer, "q") == ["a", "b", "c"]


async def test_the_same_key_twice_in_one_call_is_stored_once(engine: EngineUnderTest, peer: Peer) -> None:
    first, second = await peer.broker.publish([once("a"), once("b")])
    assert (first.outcome, second.outcome, second.id) == ("stored", "duplicate", first.id)
    assert await drain(engine, peer, "q") == ["a"]


@pytest.mark.parametrize("option", ["idempotency_key", "unique"])
async def test_what_several_peers_publish_at_once_is_stored_once_also_where_it_is_the_same_message(
    engine: EngineUnderTest, peer: Peer, option: str
) -> None:
    same = [to("q", str(n), **dict[str, Any]({option: f"key {n}"})) for n in range(5)]
    receipts = await asyncio.gather(*[(await engine.connect()).broker.publish(same) for _ in range(4)])
    outcomes = sorted(receipt.outcome for answer in receipts for receipt in answer)
    assert outcomes == ["duplicate"] * 15 + ["stored"] * 5
    assert await drain(engine, peer, "q") == ["0", "1", "2", "3", "4"]


async def test_the_same_key_with_two_fingerprints_in_one_call_is_refused_as_a_whole(peer: Peer) -> None:
    with pytest.raises(KeyReused):
        await peer.broker.publish([to("q", "x"), once("a"), once("b", "other")])
    assert await peer.broker.depth("q") == Depth()
    await send(peer, once("c", "third"))


async def test_the_key_stays_taken_when_its_message_is_done(engine: EngineUnderTest, peer: Peer) -> None:
    await send(peer, once("a"))
    assert await drain(engine, peer, "q") == ["a"]
    assert [r.outcome for r in await peer.broker.publish([once("b")])] == ["duplicate"]
    assert await drain(engine, peer, "q") == []


@pytest.mark.restarts
async def test_the_key_stays_taken_over_a_restart(engine: EngineUnderTest, peer: Peer) -> None:
    (first,) = await send(peer, once("a"))
    await engine.restart()
    peer = await engine.connect()
    assert [(r.id, r.outcome) for r in await peer.broker.publish([once("b")])] == [(first.id, "duplicate")]
    with pytest.raises(KeyReused):
        await peer.broker.publish([once("c", "other")])


async def test_the_key_is_one_for_all_peers_and_queues(engine: EngineUnderTest, peer: Peer) -> None:
    (first,) = await send(peer, once("a"))
    other = await engine.connect()
    assert [(r.id, r.outcome) for r in await other.broker.publish([once("b", queue="r")])] == [(first.id, "duplicate")]


async def test_the_key_is_kept_for_a_day(engine: EngineUnderTest, peer: Peer) -> None:
    needs_moving_time(engine)
    await send(peer, once("a"))
    await engine.advance(24 * 3600.0 - 60)
    assert [r.outcome for r in await peer.broker.publish([once("b")])] == ["duplicate"]


async def test_the_id_of_a_duplicate_leads_to_the_first_result(engine: EngineUnderTest, peer: Peer) -> None:
    await send(peer, to("q", "a", idempotency_key="i", fingerprint="f", tracked=True))
    async with peer.broker.consume(["q"], prefetch=1) as consumer:
        await settle(consumer, Ack((await one(consumer)).tag, result=b"answer"))
    (again,) = await peer.broker.publish([to("q", "b", idempotency_key="i", fingerprint="f", tracked=True)])
    assert (await peer.store.result(again.id, 0.0)).result == b"answer"


async def test_a_refused_publication_takes_no_key(engine: EngineUnderTest, peer: Peer) -> None:
    await send(peer, once("a", key="taken"))
    with pytest.raises(KeyReused):
        await peer.broker.publish([once("b"), once("c", "other", key="taken")])
    await send(peer, once("d", "another fingerprint"))
