"""What issue 13 asks of read later beside what the tests of its parts show, on real processes: kills, and what is half-way."""

from __future__ import annotations

import datetime as dt
import os
import random
import signal
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from read_later.local_web import fate_of
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
    return {row[0]: int(row[1]) for row in rows if row[1]}


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
            if (name == "scheduler") == (victims == "relay") and name not in ("engine", "gateway", "supervisor")
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


MANY = 8_000


def test_w13_w14_fifteen_workers_take_the_second_half_of_8000_links_as_fast_as_the_first_and_with_no_more_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHAPPE_SHARED", str(tmp_path / "nowhere"))  # small pages of our own
    export = tmp_path / "part_000000.csv"
    assert write_pocket_export(export, MANY) == MANY
    memory = dict[str, list[int]]()
    with Stage(tmp_path / "stage") as stage:
        fifteen = stage.config.read_text().replace("processes = 1\nconcurrency = 40", "processes = 13\nconcurrency = 3")
        stage.config.write_text(fifteen)  # with the two that extract
        stage.start_web()
        stage.start_pages()
        stage.start_chappe()
        number = stage.upload(export).json()["id"]
        while not (progress := stage.progress(number))["over"]:
            half = progress["done"] + progress["failed"] >= MANY / 2
            for name, pid in pids(stage).items():
                memory.setdefault(f"{name} {half}", []).append(psutil.Process(pid).memory_info().rss)
            time.sleep(0.5)
    database = sqlite3.connect(stage.folder / "read_later.db")
    ended = sorted(
        dt.datetime.fromisoformat(at).timestamp()
        for url, at in database.execute("select url, ended_at from article")
        if fate_of(url) == "well"  # the others wait, some of them to the end
    )
    assert database.execute("select count(*), count(distinct url), sum(state in ('done', 'failed')) from article").fetchone() == (MANY,) * 3
    database.close()
    tenth, middle = len(ended) // 10, len(ended) // 2  # the first tenth is when everything starts
    first = (middle - tenth) / (ended[middle] - ended[tenth])
    second = (len(ended) - middle) / (ended[-1] - ended[middle])
    assert second >= 0.95 * first, f"{first:.1f} a second, then {second:.1f}"
    for name in ("import-1", "extract-1", "engine"):
        before, after = max(memory[f"{name} False"]), max(memory[f"{name} True"])
        assert after < before + 40 * 1024 * 1024, f"{name}: {before / 1e6:.0f} MB, then {after / 1e6:.0f} MB"
