"""Shares of the workers' time between tenants, on what waits in one queue (rows M8 and W18)."""

from __future__ import annotations

from collections import Counter

import pytest

from chappe.engines.contract.broker import Ack, Consumer, Dead, Delivery, Retry
from chappe.errors import Rejected

from .distributed import DistributedEngine
from .engine import EngineUnderTest, Peer
from .scenes import declare, drain, gather, name, names, needs_moving_time, nothing, one, send, settle, to


def of(delivery: Delivery) -> str:
    """Return the tenant of a message, which its name begins with."""
    return name(delivery)[0]


async def queued(peer: Peer, **counts: int) -> None:
    await declare(peer, "q", fair=True)
    for tenant, count in counts.items():
        await send(peer, *[to("q", f"{tenant}{number}", tenant=tenant) for number in range(count)])


async def worked(consumer: Consumer, count: int, **seconds: float) -> str:
    """Take so many, one after the other, each of which takes as long as its tenant's do, and return their tenants in order."""
    found = ""
    for _ in range(count):
        delivery = await one(consumer)
        found += of(delivery)
        await settle(consumer, Ack(delivery.tag, took=seconds.get(of(delivery), 1.0)))
    return found


async def test_w18_who_sends_ten_is_not_behind_one_who_sent_a_hundred(peer: Peer) -> None:
    await queued(peer, a=100)
    async with peer.broker.consume(["q"], prefetch=10) as consumer:
        assert await worked(consumer, 5) == "aaaaa"
        await send(peer, *[to("q", f"b{number}", tenant="b") for number in range(10)])
        assert (await worked(consumer, 20)).count("b") == 10
        assert await worked(consumer, 5) == "aaaaa"
    assert (await peer.broker.depth("q")).ready == 80


async def test_the_first_of_a_new_tenant_is_next_also_in_a_claim_of_many(peer: Peer) -> None:
    await queued(peer, a=100, b=1)
    async with peer.broker.consume(["q"], prefetch=10) as consumer:
        claim = await gather(consumer, 10)
        assert Counter(map(of, claim)) == {"a": 9, "b": 1}
        assert "b" in [of(delivery) for delivery in claim[:2]]


async def test_w18_m8_the_first_of_a_new_tenant_is_the_next_to_start_however_many_slots_another_has_filled(peer: Peer) -> None:
    """It waits for the end of one job, and for no other claim."""
    await queued(peer, a=300)
    async with peer.broker.consume(["q"], prefetch=42) as consumer:
        held = await gather(consumer, 42)
        assert {of(delivery) for delivery in held} == {"a"}
        await send(peer, *[to("q", f"b{number}", tenant="b") for number in range(10)])
        for ended in held[:10]:
            await settle(consumer, Ack(ended.tag, took=1.0))
            assert of(await one(consumer)) == "b"


async def test_messages_of_one_tenant_keep_their_order(engine: EngineUnderTest, peer: Peer) -> None:
    await queued(peer, a=6, b=3)
    found = await drain(engine, peer, "q")
    assert [one for one in found if one[0] == "a"] == [f"a{number}" for number in range(6)]
    assert [one for one in found if one[0] == "b"] == [f"b{number}" for number in range(3)]


async def test_m8_shares_are_of_time_and_not_of_messages(peer: Peer) -> None:
    await queued(peer, a=120, b=120)
    async with peer.broker.consume(["q"], prefetch=1) as consumer:
        taken = Counter(await worked(consumer, 110, a=10.0, b=1.0))
    assert taken["b"] / taken["a"] == pytest.approx(10, rel=0.2)


async def test_m8_a_weight_counts_from_the_next_claim_on_and_can_be_taken_back(peer: Peer) -> None:
    await queued(peer, a=120, b=120)
    async with peer.broker.consume(["q"], prefetch=1) as consumer:
        assert Counter(await worked(consumer, 20)) == {"a": 10, "b": 10}
        await peer.store.desire("tenant:a", "3", "me")
        assert Counter(await worked(consumer, 40))["a"] == pytest.approx(30, abs=2)
        await peer.store.desire("tenant:a", None, "me")
        assert Counter(await worked(consumer, 20))["a"] == pytest.approx(10, abs=1)


@pytest.mark.parametrize("weight", ["0", "-1", "nan", "inf", "1e9", "much", ""])
async def test_what_is_no_weight_is_refused_and_changes_nothing(peer: Peer, weight: str) -> None:
    with pytest.raises(Rejected, match=r"a weight is a number within 0\.001 and 1000"):
        await peer.store.desire("tenant:a", weight, "me")
    assert [one for one in await peer.store.desired() if one.what == "tenant:a"] == []


async def test_a_larger_priority_comes_before_any_share(peer: Peer) -> None:
    await queued(peer, a=3, b=3)
    await send(peer, *[to("q", f"c{number}", tenant="a", priority=1) for number in range(3)])
    async with peer.broker.consume(["q"], prefetch=1) as consumer:
        assert (await worked(consumer, 5))[:3] == "ccc"


async def test_those_of_no_tenant_are_one(engine: EngineUnderTest, peer: Peer) -> None:
    if isinstance(engine, DistributedEngine):
        pytest.skip("plain messages wait in RabbitMQ, which takes turns with all tenants together")
    await declare(peer, "q", fair=True)
    await send(peer, *[to("q", f"n{number}") for number in range(20)])
    await send(peer, *[to("q", f"a{number}", tenant="a") for number in range(20)], *[to("q", f"n2{number}") for number in range(5)])
    async with peer.broker.consume(["q"], prefetch=1) as consumer:
        assert Counter(await worked(consumer, 20))["n"] == pytest.approx(10, abs=1)
        assert Counter(await worked(consumer, 25)) == {"a": 10, "n": 15}


async def test_what_comes_back_is_still_its_tenants(engine: EngineUnderTest, peer: Peer) -> None:
    await queued(peer, a=20, b=2)
    async with peer.broker.consume(["q"], prefetch=30) as consumer:
        everything = await gather(consumer, 22)
        await settle(consumer, *[Retry(d.tag, 0.0, counted=False) for d in everything])
        assert "b" in await worked(consumer, 2)
    assert sorted(await drain(engine, peer, "q"))[-1] == "b1"


async def test_a_tenant_stays_over_a_delay_and_a_death(engine: EngineUnderTest, peer: Peer) -> None:
    needs_moving_time(engine)
    await declare(peer, "q", fair=True)
    await send(peer, to("q", "b0", tenant="b"), to("q", "b1", tenant="b"), to("q", "b2", tenant="b", delay=engine.soon))
    async with peer.broker.consume(["q"], prefetch=2) as consumer:
        first, second = await gather(consumer, 2)
        await settle(consumer, Retry(first.tag, engine.soon, took=0.0), Dead(second.tag, "no", took=0.0))
        await send(peer, *[to("q", f"a{number}", tenant="a") for number in range(10)])
        await engine.advance(engine.soon)
        (letter,) = await peer.store.letters()
        await peer.store.retry_letters([letter.number])
        assert Counter(await worked(consumer, 6)) == {"a": 3, "b": 3}


async def test_a_key_that_is_taken_does_not_stop_the_others(engine: EngineUnderTest, peer: Peer) -> None:
    await declare(peer, "q", fair=True)
    await send(peer, *[to("q", f"{t}{n}", tenant=t, key=f"k{n % 2}") for t in "ab" for n in range(2)])
    async with peer.broker.consume(["q"], prefetch=9) as consumer:
        held = await gather(consumer, 2)
        assert len({d.envelope.body[1:] for d in held}) == 2
        await nothing(engine, consumer)
        await settle(consumer, *[Ack(d.tag) for d in held])
        rest = await gather(consumer, 2)
        assert sorted([*names(held), *names(rest)]) == ["a0", "a1", "b0", "b1"]


async def test_a_thousand_tenants_have_a_turn_each_before_one_has_two(peer: Peer) -> None:
    await declare(peer, "q", fair=True)
    tenants = [f"t{number:04}" for number in range(1000)]
    await send(peer, *[to("q", f"{tenant} {number}", tenant=tenant) for tenant in tenants for number in range(2)])
    async with peer.broker.consume(["q"], prefetch=1000) as consumer:
        first: list[Delivery] = []
        while len(first) < 1000:
            first += await gather(consumer, 100)
        assert sorted(name(delivery) for delivery in first) == [f"{tenant} 0" for tenant in tenants]


@pytest.mark.restarts
async def test_tenants_and_weights_survive_a_restart(engine: EngineUnderTest, peer: Peer) -> None:
    await queued(peer, a=100, b=40)
    await peer.store.desire("tenant:b", "3", "me")
    await engine.restart()
    again = await engine.connect()
    async with again.broker.consume(["q"], prefetch=1) as consumer:
        assert Counter(await worked(consumer, 40))["b"] == pytest.approx(30, abs=2)
