"""Rows of the stories that hold on every engine, each named by its number."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path

import pytest

from chappe import App, Command, Event, Retry
from chappe.messages.envelope import Envelope, Publication

from .engine import EngineUnderTest, Peer
from .scenes import PATIENCE, ack, declare, eventually, name, send, to
from .test_handlers import working


class Fetch(Command, queue="fetch", results=True, retry=Retry(3, delay=0.01)):
    feed: str


class Fetched(Event):
    feed: str


def _portable() -> tuple[App, list[str]]:
    """Return an application, which knows nothing of an engine, and what it notes."""
    app, seen = App("feeds"), list[str]()

    @app.handles(Fetch)
    async def fetch(command: Fetch) -> int:
        seen.append(f"fetch {command.feed}")
        if seen.count("fetch shaky") == 1 and command.feed == "shaky":
            raise ConnectionError("the feed is away")
        await app.apublish(Fetched(feed=command.feed))
        return len(command.feed)

    @app.on(Fetched, name="notes")
    def note(event: Fetched) -> None:
        seen.append(f"fetched {event.feed}")

    return app, seen


async def test_t12_the_same_code_sends_is_retried_answers_and_hears_events_on_every_engine(
    engine: EngineUnderTest, peer: Peer, tmp_path: Path
) -> None:
    app, seen = _portable()
    async with working(app, peer, tmp_path):
        assert await app.aask(Fetch(feed="sound"), timeout=PATIENCE) == 5
        asking = asyncio.ensure_future(app.aask(Fetch(feed="shaky"), timeout=PATIENCE))

        async def look() -> list[str]:
            if engine.time_stands:
                await engine.advance(0.1)
            return sorted(seen)

        await eventually(look, ["fetch shaky", "fetch shaky", "fetch sound", "fetched shaky", "fetched sound"])
        assert await asking == 5


async def test_t10_many_workers_on_one_queue_share_it_and_each_message_comes_once(engine: EngineUnderTest) -> None:
    """Row D20 too: a queue has one name, whoever serves it, and its work goes to whoever is there."""
    peers = [await engine.connect() for _ in range(6)]
    await declare(peers[0], "q")
    names = [str(n) for n in range(120)]
    heard: list[list[str]] = [[] for _ in peers]
    all_have_some = asyncio.Event()

    async def work(number: int) -> None:
        async with peers[number].broker.consume(["q"], prefetch=2) as consumer:
            while sum(map(len, heard)) < len(names):
                for delivery in await consumer.receive(2, 0.2):
                    heard[number].append(name(delivery))
                    if all(heard):
                        all_have_some.set()
                    async with asyncio.timeout(PATIENCE):
                        await all_have_some.wait()  # nobody takes all of it
                    await ack(consumer, delivery)

    working_ = [asyncio.ensure_future(work(number)) for number in range(len(peers))]
    await send(peers[0], *(to("q", one) for one in names))
    await asyncio.gather(*working_)
    assert sorted(itertools.chain(*heard)) == sorted(names)


@pytest.mark.disconnects
async def test_t9_a_trivial_task_fails_on_no_connection_that_is_lost_and_the_worker_goes_on(
    engine: EngineUnderTest, peer: Peer, tmp_path: Path
) -> None:
    other = await engine.connect()
    app, seen = _portable()
    async with working(app, peer, tmp_path):
        for feed in ("first", "second", "third"):
            async with peer.cut():
                body = f'{{"feed": "{feed}"}}'.encode()
                await send(other, Publication(Envelope(feed, "fetch", body), "fetch"))

            async def look(wanted: str = f"fetched {feed}") -> bool:
                return wanted in seen

            await eventually(look, True)
        assert not await other.store.letters()
