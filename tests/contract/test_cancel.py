"""A cancelled message is not handled: what waits is gone, and who runs it is told."""

from __future__ import annotations

import pytest

from chappe.engines.contract.broker import Ack, Depth
from chappe.engines.contract.results import CANCELLED
from chappe.errors import NotFound, Rejected

from .engine import EngineUnderTest, Peer
from .scenes import ack, declare, drain, eventually, nothing, one, send, to


@pytest.fixture(autouse=True)
async def queue(peer: Peer) -> None:
    await declare(peer, "q", "other")
    try:
        await peer.broker.cancel("nothing")
    except Rejected as error:
        pytest.skip(str(error))
    except NotFound:
        return


@pytest.mark.parametrize("tracked", [False, True])
@pytest.mark.parametrize(("delay", "state"), [(0.0, "ready"), (3600.0, "delayed")])
async def test_what_waits_is_gone_and_says_where_it_was(
    engine: EngineUnderTest, peer: Peer, tracked: bool, delay: float, state: str
) -> None:
    await send(peer, to("q", id="before"), to("q", id="it", delay=delay, tracked=tracked), to("q", id="after"))
    assert await (await engine.connect()).broker.cancel("it") == state
    assert await peer.broker.depth("q") == Depth(ready=2)
    assert len(await drain(engine, peer, "q")) == 2
    if tracked:
        found = await peer.store.result("it", 60.0)
        assert (found.state, found.error) == ("cancelled", CANCELLED)


async def test_who_waits_for_its_result_hears_that_it_was_cancelled(engine: EngineUnderTest, peer: Peer) -> None:
    await send(peer, to("q", id="it", tracked=True))
    assert (await peer.store.result("it", 0.0)).state == "ready"
    await peer.broker.cancel("it")
    assert (await (await engine.connect()).store.state("it")).state == "cancelled"


async def test_the_next_of_its_key_comes_forward(engine: EngineUnderTest, peer: Peer) -> None:
    await send(peer, to("q", id="first", key="k"), to("q", id="second", key="k"))
    assert await peer.broker.cancel("first") == "ready"
    async with peer.broker.consume(["q"], prefetch=5) as consumer:
        delivery = await one(consumer)
        assert delivery.envelope.id == "second"
        await ack(consumer, delivery)
        await nothing(engine, consumer)


async def test_its_unique_key_is_free_again(peer: Peer) -> None:
    await send(peer, to("q", id="it", unique="u"))
    await peer.broker.cancel("it")
    await send(peer, to("q", id="again", unique="u"))


async def test_who_runs_it_is_told_and_ends_it_as_cancelled(engine: EngineUnderTest, peer: Peer) -> None:
    await send(peer, to("q", id="it", tracked=True), to("q", id="neighbour"))
    told: list[int] = []
    async with peer.broker.consume(["q"], prefetch=2) as consumer:
        consumer.on_cancel(told.append)
        first, second = await one(consumer), await one(consumer)
        assert await (await engine.connect()).broker.cancel("it") == "running"

        async def heard() -> list[int]:
            return told

        await eventually(heard, [first.tag])
        assert await consumer.settle([Ack(first.tag, error=CANCELLED), Ack(second.tag)]) == []
    assert (await peer.store.state("it")).state == "cancelled"
    assert await peer.broker.depth("q") == Depth()


async def test_nobody_else_is_told(engine: EngineUnderTest, peer: Peer) -> None:
    await send(peer, to("q", id="it"), to("other", id="another"))
    told: list[int] = []
    async with peer.broker.consume(["q"], prefetch=2) as consumer, (await engine.connect()).broker.consume(["other"], prefetch=2) as other:
        mine: list[int] = []
        consumer.on_cancel(mine.append)
        other.on_cancel(told.append)
        delivery, _ = await one(consumer), await one(other)
        await peer.broker.cancel("it")

        async def heard() -> list[int]:
            return mine

        await eventually(heard, [delivery.tag])
        assert told == []


async def test_what_has_ended_or_never_was_is_not_found(engine: EngineUnderTest, peer: Peer) -> None:
    await send(peer, to("q", id="it"))
    await drain(engine, peer, "q")
    for message_id in ("it", "never"):
        with pytest.raises(NotFound, match=f"message {message_id} is neither waiting nor running"):
            await peer.broker.cancel(message_id)
