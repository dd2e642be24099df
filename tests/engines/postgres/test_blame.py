"""Messages that a worker died with: counted, run alone, and dead after three; their neighbours lose nothing."""

from __future__ import annotations

import pytest

from chappe.engines.contract.broker import Ack, Death, Depth
from chappe.engines.postgres.broker import PostgresBroker
from chappe.engines.postgres.store import PostgresStore
from chappe.messages.envelope import Envelope, Options, Publication


async def send(broker: PostgresBroker, *names: str, key: str | None = None) -> None:
    options = Options(key=key) if key else None
    await broker.publish([Publication(Envelope(name, "t", b"{}"), "q", options=options) for name in names])


async def die(url: str, table: str, limit: int = 9) -> dict[str, int]:
    """Have a worker take messages and die, and return the tags that it held by the ids of the messages."""
    worker = PostgresBroker(url, deadline=60.0)
    worker.info["table"] = table
    consuming = worker.consume(["q"], prefetch=limit)
    consumer = await consuming.__aenter__()
    held = {d.envelope.id: d.tag for d in await consumer.receive(limit, 10.0)}
    consumer._out.clear()  # it gives nothing back
    await worker.close()
    return held


async def test_what_executed_runs_alone_and_its_neighbours_lose_no_attempt(url: str, broker: PostgresBroker) -> None:
    await send(broker, "bad", "a", "b")
    held = await die(url, "1-a.running")
    await broker.blame(Death("1-a.running", (held["bad"],)))
    await broker.depth("q")  # what the dead worker held is taken back
    async with broker.consume(["q"], prefetch=9) as consumer:
        (alone,) = await consumer.receive(9, 10.0)
        assert (alone.envelope.id, alone.attempt) == ("bad", 1)
        assert await consumer.receive(9, 0.0) == []
        await consumer.settle([Ack(alone.tag)])
        innocent = await consumer.receive(9, 10.0)
        assert [(d.envelope.id, d.attempt) for d in innocent] == [("a", 1), ("b", 1)]
        await consumer.settle([Ack(d.tag) for d in innocent])
    assert await broker.depth("q") == Depth()


async def test_who_is_never_idle_makes_room_for_what_must_run_alone(url: str, broker: PostgresBroker) -> None:
    await send(broker, "a", "b")
    async with broker.consume(["q"], prefetch=9) as consumer:
        busy = await consumer.receive(9, 10.0)
        await send(broker, "bad")
        held = await die(url, "0-a.running")
        await broker.blame(Death("0-a.running", (held["bad"],)))
        consumer._looks_at = 0.0  # as it is after some seconds
        await send(broker, "c")
        assert await consumer.receive(9, 0.0) == []
        await consumer.settle([Ack(d.tag) for d in busy])
        (alone,) = await consumer.receive(9, 10.0)
        assert alone.envelope.id == "bad"
        await consumer.settle([Ack(alone.tag)])
        (other,) = await consumer.receive(9, 10.0)
        await consumer.settle([Ack(other.tag)])
    assert await broker.depth("q") == Depth()


async def test_a_message_that_kills_three_workers_is_one_dead_letter_that_says_so(url: str, broker: PostgresBroker) -> None:
    await send(broker, "bad", key="k")
    await send(broker, "behind", key="k")
    for number in range(3):
        table = f"2-{number}.running"
        held = await die(url, table)
        await broker.blame(Death(table, (held["bad"],)))
    assert await broker.depth("q") == Depth(ready=1, dead=1)
    (letter,) = await PostgresStore(broker).letters("q")
    assert (letter.envelope.id, letter.reason, letter.deaths, letter.attempts) == ("bad", "worker_lost", 3, 0)
    assert len(letter.history) == 3 and "3 workers died" in str(letter.error)
    async with broker.consume(["q"], prefetch=9) as consumer:
        (delivery,) = await consumer.receive(9, 10.0)
        assert delivery.envelope.id == "behind"
        await consumer.settle([Ack(delivery.tag)])
    await PostgresStore(broker).discard_letters([letter.number])


async def test_where_nothing_executed_it_runs_alone_after_the_second_death_only(url: str, broker: PostgresBroker) -> None:
    await send(broker, "waits", "beside")
    held = await die(url, "3-a.running")
    await broker.blame(Death("3-a.running", tuple(held.values()), is_sure=False))
    async with broker.consume(["q"], prefetch=9) as consumer:
        both = await consumer.receive(9, 10.0)
        assert [d.envelope.id for d in both] == ["waits", "beside"]
        await consumer.settle([Ack(d.tag) for d in both])


async def test_a_blame_that_comes_late_takes_nothing_from_who_has_it_now(url: str, broker: PostgresBroker) -> None:
    await send(broker, "a")
    held = await die(url, "4-a.running")
    await broker.depth("q")  # it is taken back
    async with broker.consume(["q"], prefetch=9) as consumer:
        (delivery,) = await consumer.receive(9, 10.0)
        await broker.blame(Death("4-a.running", (held["a"],)))
        assert await consumer.settle([Ack(delivery.tag)]) == []
    assert await broker.depth("q") == Depth()


@pytest.mark.parametrize("is_last", [False, True])
async def test_what_ran_out_of_its_time_has_failed_an_attempt(url: str, broker: PostgresBroker, *, is_last: bool) -> None:
    await send(broker, "slow")
    held = await die(url, "5-a.running")
    await broker.blame(Death("5-a.running", (held["slow"],), "it ran too long", after=0.0, is_last=is_last))
    if is_last:
        (letter,) = await PostgresStore(broker).letters("q")
        assert (letter.reason, letter.attempts, letter.deaths) == ("attempts spent", 1, 0)
        await PostgresStore(broker).discard_letters([letter.number])
        return
    async with broker.consume(["q"], prefetch=9) as consumer:
        (delivery,) = await consumer.receive(9, 10.0)
        assert delivery.attempt == 2
        await consumer.settle([Ack(delivery.tag)])
