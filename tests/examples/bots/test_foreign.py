"""Plain pika scripts, with declarations of their own, beside a bot of ours on RabbitMQ (row D25)."""

import asyncio
import json
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from bots import demo
from chappe import App, Event, Exchange, Settings
from tests.servers.shared import Database, Vhost
from tests.waiting import PATIENCE

PROGRAMS = Path(demo.__file__).parent / "foreign"
TEXT = "MicroJoe UTF-8 Æ¢V→−≠É–È„⋅®…"


class Oneshot(Event, name="oneshot", exchange=Exchange("reddit", "fanout", durable=False, archive=30 * 86400.0), routing_key="oneshot"):
    """What the scripts say."""

    name: str
    author: str
    date: datetime


@pytest.fixture
def program(rabbit: Vhost) -> Any:
    running: list[subprocess.Popen[bytes]] = []

    def start(name: str, *arguments: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, str(PROGRAMS / f"{name}.py"), rabbit.url, "reddit", *arguments]
        running.append(subprocess.Popen(command, stdout=subprocess.PIPE))
        return running[-1]

    yield start
    for process in running:
        process.kill()
        process.communicate()


async def test_h1_plain_pika_scripts_and_a_bot_of_ours_hear_each_other_and_nothing_is_missed(
    rabbit: Vhost, postgres: Database, program: Any
) -> None:
    app = App("archive")
    app.knows(Oneshot)
    app.configure(Settings(broker=rabbit.url, store=postgres.url, deadline=30.0))
    await app.connection()  # the exchange is archived from now on
    assert await asyncio.to_thread(program("publish", "first").wait, PATIENCE) == 0
    listener = program("subscribe")
    assert await asyncio.to_thread(listener.stdout.readline) == b"listening\n"
    await app.apublish(Oneshot(name="ours", author=TEXT, date=datetime(2026, 11, 29, 12)))
    theirs = json.loads(await asyncio.to_thread(listener.stdout.readline))
    assert theirs == {"name": "ours", "author": TEXT, "date": "2026-11-29T12:00:00"}

    following = app.follow("#", since=0)
    heard = []
    async with asyncio.timeout(PATIENCE):
        async for one in following:
            heard.append(one)
            if len(heard) == 3:
                break
    first, raw, ours = heard
    assert (first.exchange, first.body["name"], first.body["author"]) == ("reddit", "first", TEXT)
    assert raw.body == b"\xff\x00 no JSON"
    assert ours.event == Oneshot(name="ours", author=TEXT, date=datetime(2026, 11, 29, 12))
    await following.aclose()
    await app.aclose()
