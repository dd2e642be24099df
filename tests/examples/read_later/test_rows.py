"""What issue 13 asks of read later beside what the tests of its parts show, on real processes: kills, and what is half-way."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from read_later.sample import write_pocket_export
from read_later.stage import Stage

pytestmark = pytest.mark.proof


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with Stage(tmp_path / "stage", fetch_seconds=5.0) as made:
        made.start_web()
        made.start_pages()
        made.start_chappe()
        yield made


def pids(stage: Stage) -> dict[str, int]:
    rows = [line.split("\t") for line in (stage.folder / "chappe.db.processes").read_text().splitlines()]
    return {row[0]: int(row[1]) for row in rows if row[1] and row[0] != "engine"}


@pytest.mark.parametrize("victims", ["workers", "relay"])
def test_w9_killed_processes_lose_no_article_and_double_none(stage: Stage, tmp_path: Path, victims: str) -> None:
    export = tmp_path / "part_000000.csv"
    links = write_pocket_export(export, 300)
    chosen = random.Random(1)
    number = stage.upload(export).json()["id"]
    killed = 0
    while not stage.progress(number)["over"]:
        found = [
            pid
            for name, pid in pids(stage).items()
            if (name == "scheduler") == (victims == "relay") and name not in ("gateway", "supervisor")
        ]
        if found and killed < 10:
            with_signal(chosen.choice(found))
            killed += 1
        done = stage.progress(number)["done"]
        stage.wait_for(
            lambda done=done: stage.progress(number)["done"] > done or stage.progress(number)["over"], "articles to appear", 300.0
        )
    assert killed
    database = sqlite3.connect(stage.folder / "read_later.db")
    assert (
        database.execute("select count(*), count(distinct url), sum(state in ('done', 'failed')) from article").fetchone() == (links,) * 3
    )
    assert database.execute("select count(*) from page").fetchone() == (0,)
    assert database.execute("select count(*) from chappe_outbox").fetchone() == (0,)
    database.close()
    queues = stage.queues()
    assert queues["import.pocket"]["done"] == links  # one command for each article, however often it ran
    assert sum(queue["dead"] for queue in queues.values()) == 0


def with_signal(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass  # it was being replaced
