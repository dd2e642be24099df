"""A follower that was away while 100,000 events passed, and publishing goes on: no hole, no repeat, in order."""

import asyncio
from pathlib import Path

import pytest

from chappe import App, Event, Settings
from chappe.engines.file.server import Engine
from tests.servers.shared import Database

pytestmark = pytest.mark.proof
COUNT, MORE, BATCH = 100_000, 20_000, 500


class Tick(Event):
    n: int


async def publish(app: App, first: int, last: int) -> None:
    for start in range(first, last, BATCH):
        await app.asend([Tick(n=n) for n in range(start, start + BATCH)])


async def follow_over_a_gap(app: App) -> None:
    app.knows(Tick)
    following = app.follow("tick", name="reader", since=0)
    await publish(app, 0, BATCH)
    seen: list[int] = []
    async for heard in following:
        seen.append(heard.event.n)
        if len(seen) == BATCH:
            break
    await following.aclose()
    await publish(app, BATCH, COUNT)

    publishing = asyncio.ensure_future(publish(app, COUNT, COUNT + MORE))
    following = app.follow("tick", name="reader", since="last")
    seen.pop()  # its loop was not done with this one when it ended: it is heard again
    async for heard in following:
        assert heard.lost == 0
        seen.append(heard.event.n)
        if len(seen) == COUNT + MORE:
            break
    await publishing
    assert seen == list(range(COUNT + MORE))
    await following.aclose()
    await app.aclose()


@pytest.mark.timeout(600)
async def test_m4_a_follower_catches_up_over_a_hundred_thousand_events_on_a_file(tmp_path: Path) -> None:
    engine = Engine(tmp_path / "chappe.db", grace=0.0)
    app = App("volume")
    app.configure(Settings(broker=f"sqlite:///{tmp_path / 'chappe.db'}", deadline=60.0), engine=engine)
    await follow_over_a_gap(app)
    engine.close()


@pytest.mark.timeout(600)
async def test_m4_a_follower_catches_up_over_a_hundred_thousand_events_in_postgresql(postgres: Database) -> None:
    app = App("volume")
    app.configure(Settings(broker=postgres.url, deadline=60.0))
    await follow_over_a_gap(app)
