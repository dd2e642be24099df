"""Dead letters: kept with everything needed to understand and repeat them."""

from __future__ import annotations

import pytest

from chappe.engines.contract.broker import Dead, Depth, Retry
from chappe.engines.contract.letters import Letter
from chappe.errors import NotFound
from chappe.messages.envelope import Publication

from .engine import EngineUnderTest, Peer
from .scenes import ack, declare, drain, gather, name, nothing, one, send, settle, to


@pytest.fixture(autouse=True)
async def queue(peer: Peer) -> None:
    await declare(peer, "q", "r")


async def die(peer: Peer, *publications: Publication, reason: str = "no") -> list[Letter]:
    """Publish and import_letters, and give the new letters in that order."""
    before = [letter.number for letter in await peer.store.letters()]
    for publication in publications:
        await send(peer, publication)
        async with peer.broker.consume([publication.routing_key], prefetch=1) as consumer:
            await settle(consumer, Dead((await one(consumer)).tag, reason))
    return await peer.store.letters(after=max(before, default=0))


def bodies(letters: list[Letter]) -> list[str]:
    return [letter.envelope.body.decode() for letter in letters]


async def test_there_are_none_at_first(peer: Peer) -> None:
    assert await peer.store.letters() == []
    assert await peer.store.letters("q") == []


async def test_a_letter_tells_everything_about_its_death(engine: EngineUnderTest, peer: Peer) -> None:
    before = engine.now()
    await send(peer, sent := to("q", "a"))
    async with peer.broker.consume(["q"], prefetch=1) as consumer:
        await settle(consumer, Dead((await one(consumer)).tag, "rejected", "ValueError: 13\n  at line 1"))
    (letter,) = await peer.store.letters()
    assert (letter.queue, letter.reason, letter.error, letter.attempts, letter.envelope) == (
        "q",
        "rejected",
        "ValueError: 13\n  at line 1",
        1,
        sent.envelope,
    )
    assert before <= letter.died_at <= engine.now()
    assert await peer.store.letter(letter.number) == letter


async def test_a_letter_has_the_history_of_its_errors(engine: EngineUnderTest, peer: Peer) -> None:
    before = engine.now()
    await send(peer, to("q", "a"))
    async with peer.broker.consume(["q"], prefetch=1) as consumer:
        await settle(consumer, Retry((await one(consumer)).tag, error="first"))
        await settle(consumer, Retry((await one(consumer)).tag))
        await settle(consumer, Retry((await one(consumer)).tag, engine.soon, error="third"))
        await engine.advance(engine.soon)
        await settle(consumer, Dead((await one(consumer)).tag, "spent", "fourth"))
    (letter,) = await peer.store.letters()
    assert letter.attempts == 4
    assert [(attempt, error) for _, attempt, error in letter.history] == [(1, "first"), (3, "third")]
    times = [at for at, _, _ in letter.history]
    assert [before, *times, letter.died_at] == sorted([before, *times, letter.died_at])


async def test_histories_of_two_messages_are_not_mixed(peer: Peer) -> None:
    await send(peer, to("q", "a"), to("q", "b"))
    async with peer.broker.consume(["q"], prefetch=2) as consumer:
        for delivery in await gather(consumer, 2):
            await settle(consumer, Retry(delivery.tag, error=f"{name(delivery)} failed"))
        for delivery in await gather(consumer, 2):
            await settle(consumer, Dead(delivery.tag, "no"))
    assert [[error for _, _, error in letter.history] for letter in await peer.store.letters()] == [["a failed"], ["b failed"]]


async def test_letters_are_listed_by_number_of_all_queues_or_of_one(peer: Peer) -> None:
    await die(peer, to("q", "1"), to("r", "2"), to("q", "3"))
    everything = await peer.store.letters()
    assert bodies(everything) == ["1", "2", "3"]
    assert [letter.number for letter in everything] == sorted({letter.number for letter in everything})
    assert bodies(await peer.store.letters("q")) == ["1", "3"]
    assert bodies(await peer.store.letters("r")) == ["2"]


async def test_letters_are_listed_page_by_page(peer: Peer) -> None:
    await die(peer, *[to("q" if n % 2 else "r", str(n)) for n in range(7)])
    seen: list[Letter] = []
    while page := await peer.store.letters(after=seen[-1].number if seen else 0, limit=3):
        assert len(page) <= 3
        seen += page
    assert bodies(seen) == [str(n) for n in range(7)]
    first = (await peer.store.letters("q", limit=1))[0]
    assert bodies(await peer.store.letters("q", after=first.number)) == ["3", "5"]


async def test_an_unknown_letter_is_not_found(peer: Peer) -> None:
    with pytest.raises(NotFound, match="4711"):
        await peer.store.letter(4711)
    with pytest.raises(NotFound, match="4711"):
        await peer.store.edit_letter(4711, b"")


async def test_a_retried_letter_runs_again_with_fresh_attempts(peer: Peer) -> None:
    await send(peer, sent := to("q", "a"))
    async with peer.broker.consume(["q"], prefetch=1) as consumer:
        await settle(consumer, Retry((await one(consumer)).tag, error="boom", note="n"))
        await settle(consumer, Dead((await one(consumer)).tag, "no"))
        assert await peer.store.retry_letters([letter.number for letter in await peer.store.letters()]) == 1
        assert await peer.broker.depth("q") == Depth(ready=1)
        delivery = await one(consumer)
        assert (delivery.attempt, delivery.envelope) == (1, sent.envelope)
        assert await peer.store.letters() == []
        await settle(consumer, Dead(delivery.tag, "again"))
    (letter,) = await peer.store.letters()
    assert (letter.attempts, letter.reason, letter.history) == (1, "again", ())


async def test_retried_letters_come_in_the_order_of_the_request_and_behind_what_waits(engine: EngineUnderTest, peer: Peer) -> None:
    letters = await die(peer, to("q", "1"), to("q", "2"), to("r", "3"))
    await send(peer, to("q", "waits"))
    assert await peer.store.retry_letters([letters[1].number, letters[0].number, letters[2].number]) == 3
    assert await drain(engine, peer, "q") == ["waits", "2", "1"]
    assert await drain(engine, peer, "r") == ["3"]


async def test_a_retried_letter_keeps_its_priority(engine: EngineUnderTest, peer: Peer) -> None:
    (letter,) = await die(peer, to("q", "high", priority=5))
    await send(peer, to("q", "low"))
    await peer.store.retry_letters([letter.number])
    assert await drain(engine, peer, "q") == ["high", "low"]


async def test_unknown_and_repeated_numbers_are_not_counted(engine: EngineUnderTest, peer: Peer) -> None:
    (letter,) = await die(peer, to("q", "a"))
    assert await peer.store.retry_letters([4711, letter.number, letter.number]) == 1
    assert await peer.store.retry_letters([letter.number]) == 0
    assert await peer.store.retry_letters([]) == 0
    assert await peer.store.discard_letters([4711, letter.number]) == 0
    assert await drain(engine, peer, "q") == ["a"]


async def test_an_edited_letter_runs_again_with_its_new_body(peer: Peer) -> None:
    (letter,) = await die(peer, to("q", "bad"))
    await peer.store.edit_letter(letter.number, "gut 🌍".encode())
    changed = await peer.store.letter(letter.number)
    assert (changed.envelope.body, changed.envelope.id, changed.reason, changed.died_at) == (
        "gut 🌍".encode(),
        letter.envelope.id,
        "no",
        letter.died_at,
    )
    await peer.store.retry_letters([letter.number])
    async with peer.broker.consume(["q"], prefetch=1) as consumer:
        assert name(await one(consumer)) == "gut 🌍"


async def test_a_discarded_letter_is_gone(engine: EngineUnderTest, peer: Peer) -> None:
    letters = await die(peer, to("q", "1"), to("q", "2"), to("r", "3"))
    assert await peer.store.discard_letters([letters[0].number, letters[2].number]) == 2
    assert bodies(await peer.store.letters()) == ["2"]
    assert (await peer.broker.depth("q"), await peer.broker.depth("r")) == (Depth(dead=1), Depth())
    assert await peer.store.retry_letters([letters[0].number]) == 0
    async with peer.broker.consume(["q", "r"], prefetch=1) as consumer:
        await nothing(engine, consumer)


async def test_numbers_are_never_used_again(peer: Peer) -> None:
    (first,) = await die(peer, to("q", "1"))
    await peer.store.discard_letters([first.number])
    (second,) = await die(peer, to("q", "2"))
    assert second.number > first.number


async def test_a_letter_does_not_stand_in_the_way_of_others(engine: EngineUnderTest, peer: Peer) -> None:
    await die(peer, to("q", "dead"))
    await send(peer, to("q", "a"))
    assert await drain(engine, peer, "q") == ["a"]


@pytest.mark.restarts
async def test_a_letter_survives_a_restart(engine: EngineUnderTest, peer: Peer) -> None:
    letters = await die(peer, to("q", "1"), to("r", "2"))
    await engine.restart()
    peer = await engine.connect()
    assert await peer.store.letters() == letters
    assert await peer.broker.depth("q") == Depth(dead=1)
    async with peer.broker.consume(["q"], prefetch=1) as consumer:
        await peer.store.retry_letters([letters[0].number])
        await ack(consumer, await one(consumer))
    assert await peer.broker.depth("q") == Depth()
