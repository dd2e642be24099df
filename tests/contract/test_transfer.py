"""What is carried to another engine: shown with all that is known of it, withdrawn where it waits, buried where it goes."""

from __future__ import annotations

import re

import msgspec
import pytest

from chappe.engines.contract.broker import Dead, Depth, Retry
from chappe.errors import NotFound

from .engine import EngineUnderTest, Peer
from .scenes import ack, declare, drain, gather, one, send, settle, to


@pytest.fixture(autouse=True)
async def queue(peer: Peer) -> None:
    await declare(peer, "q", "r")


async def test_what_is_delayed_is_shown_with_its_wishes_and_what_is_left_of_its_delay(peer: Peer) -> None:
    await send(
        peer,
        to("q", "a", delay=600.0, priority=7, key="k", unique="u", unique_for=900.0, tracked=True),
        to("q", "b", delay=3.0),
        to("q", "c"),
    )
    (shown,) = await peer.store.export_messages("q", "delayed", later=60.0)
    assert (shown.envelope.body, shown.attempt, shown.priority, shown.key, shown.unique, shown.tracked) == (b"a", 0, 7, "k", "u", True)
    assert shown.delay is not None
    assert 590 < shown.delay <= 600
    assert shown.unique_for is not None
    assert 890 < shown.unique_for <= 900
    assert [c.envelope.body for c in await peer.store.export_messages("q", "delayed")] == [b"b", b"a"], "the soonest first"
    assert await peer.store.export_messages("r", "delayed") == []


async def test_what_runs_at_this_connection_is_shown_and_not_what_runs_at_others(engine: EngineUnderTest, peer: Peer) -> None:
    await send(peer, to("q", "a", key="k", priority=3), to("q", "b", key="l"))
    other = await engine.connect()
    async with other.broker.consume(["q"], prefetch=1) as theirs, peer.broker.consume(["q"], prefetch=1) as mine:
        first, second = await one(theirs), await one(mine)
        (shown,) = await peer.store.export_messages("q", "running")
        assert (shown.envelope.id, shown.key) == (second.envelope.id, "l")
        assert first.envelope.id != second.envelope.id


async def test_what_is_withdrawn_is_gone_with_its_keys_and_what_began_is_not_withdrawn(engine: EngineUnderTest, peer: Peer) -> None:
    await send(peer, to("q", "a", delay=600.0, unique="u"), to("q", "b", delay=600.0, key="k"), to("q", "c"))
    delayed = await peer.store.export_messages("q", "delayed")
    async with peer.broker.consume(["q"], prefetch=1) as consumer:
        running = await one(consumer)
        places = [c.place for c in delayed]
        assert sorted(await peer.store.delete_delayed("q", [*places, 2**40])) == sorted(places)
        assert await peer.store.delete_delayed("q", places) == []
        await ack(consumer, running)
    assert await peer.broker.depth("q") == Depth()
    assert [r.outcome for r in await send(peer, to("q", "d", unique="u"), to("q", "e", key="k"))] == ["stored", "stored"]
    assert await drain(engine, peer, "q") == ["d", "e"]


async def test_a_letter_is_buried_as_it_died_once_and_can_be_retried_with_its_key(engine: EngineUnderTest, peer: Peer) -> None:
    await send(peer, to("q", "a", key="k", priority=2))
    async with peer.broker.consume(["q"], prefetch=1) as consumer:
        await settle(consumer, Dead((await one(consumer)).tag, "failed", "ValueError: no"))
    (shown,) = await peer.store.export_messages("q", "dead")
    assert shown.letter is not None
    assert (shown.envelope.body, shown.attempt, shown.key, shown.priority, shown.letter[:2]) == (
        b"a",
        1,
        "k",
        2,
        ("failed", "ValueError: no"),
    )
    assert await peer.store.import_letters("r", [shown]) == 1
    assert await peer.store.import_letters("r", [shown]) == 0, "it is there"
    (letter,) = await peer.store.letters("r")
    assert (letter.reason, letter.error, letter.attempts, letter.died_at) == ("failed", "ValueError: no", 1, shown.letter[2])
    assert msgspec.structs.asdict(letter.envelope) == msgspec.structs.asdict(shown.envelope)
    assert await peer.store.retry_letters([letter.number]) == 1
    async with peer.broker.consume(["r"], prefetch=10) as consumer:
        (again,) = await gather(consumer, 1)
        (running,) = await peer.store.export_messages("r", "running")
        assert (again.attempt, running.key, running.priority) == (1, "k", 2)
        await ack(consumer, again)
    assert await peer.store.export_messages("q", "dead", after=shown.place) == []


async def test_an_undeclared_queue_is_not_found(peer: Peer) -> None:
    with pytest.raises(NotFound):
        await peer.store.export_messages("nowhere", "delayed")
    with pytest.raises(NotFound):
        await peer.store.delete_delayed("nowhere", [1])


async def test_what_others_are_merged_into_or_wait_behind_stays_until_it_is_ready(peer: Peer) -> None:
    await send(peer, to("q", "mask", delay=600.0, key="m", merges=True), to("q", "first", key="k"), to("q", "second", key="k"))
    async with peer.broker.consume(["q"], prefetch=1) as consumer:
        first = await one(consumer)
        await settle(consumer, Retry(first.tag, 600.0))
    delayed = (await peer.store.look("q", "delayed")).messages
    assert sorted(d.envelope.body for d in delayed) == [b"first", b"mask"]
    assert await peer.store.export_messages("q", "delayed") == []
    assert await peer.store.delete_delayed("q", [int(re.findall(r"\d+", d.place)[-1]) for d in delayed]) == []
    assert (await peer.broker.depth("q")).delayed == 2
