"""Temporary subscribers as processes: each hears everything while it runs, and leaves nothing behind."""

from __future__ import annotations

import os
import signal

import pytest

from ..servers.shared import Database, Vhost
from ..waiting import until
from .conftest import Mill

BOT = """
import os, pathlib
from chappe import App, Event

app = App("bots")


class Said(Event):
    text: str


@app.on(Said, temporary=True)
async def hear(event: Said) -> None:
    with open(pathlib.Path(__file__).parent / "log", "a") as log:
        log.write(f"0 {os.getpid()} heard {event.text}\\n")
"""


@pytest.fixture(params=["file", pytest.param("rabbitmq", marks=pytest.mark.proof)])
def bots(mill: Mill, request: pytest.FixtureRequest) -> Mill:
    (mill.folder / "bot.py").write_text(BOT)
    mill.environment |= {"CHAPPE_APP": "bot:app"}
    if request.param == "rabbitmq":
        rabbit: Vhost = request.getfixturevalue("rabbit")
        postgres: Database = request.getfixturevalue("postgres")
        mill.environment |= {"CHAPPE_BROKER": rabbit.url, "CHAPPE_STORE": postgres.url}
    mill.configure("[pools.bots]\nprocesses = 2\nconcurrency = 2\n")
    return mill


def say(mill: Mill, text: str) -> None:
    mill.chappe("publish", "said", f"text={text}")


def hearers(mill: Mill, text: str) -> set[int]:
    return {line.pid for line in mill.lines("heard") if line.name == text}


def listed(mill: Mill) -> list[str]:
    return [name for name in mill.queues() if name.startswith("bots.on.hear")]


def test_each_process_hears_what_is_said_while_it_runs_and_leaves_nothing_behind(bots: Mill) -> None:
    bots.run("--no-gateway", "--no-scheduler")
    say(bots, "one")
    both = until(lambda: hearers(bots, "one") if len(hearers(bots, "one")) == 2 else None)
    gone = min(both)
    os.kill(gone, signal.SIGKILL)
    number = 0

    def all_hear() -> set[int] | None:
        nonlocal number
        number += 1
        say(bots, f"again{number}")
        heard = hearers(bots, f"again{number - 1}")
        return heard if len(heard) == 2 else None

    assert gone not in until(all_hear), "a new process hears in the place of the one that was killed"
    assert len(bots.lines("heard")) == len({(line.pid, line.name) for line in bots.lines("heard")}), "each heard it once"
    until(lambda: len(listed(bots)) <= 2, "the queue of the one that was killed to be removed")
    bots.end()
    assert listed(bots) == []
