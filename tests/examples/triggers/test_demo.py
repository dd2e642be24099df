"""The demo itself, as `make demo-triggers` starts it, only smaller: its last check compares what was handed over with the items."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from triggers.demo import _LINE

from ..conftest import EXAMPLES
from ..running import run_demo

SHARED = Path("/work/shared/data/triggers/triggerhappy_2016-04-13.log")


@pytest.mark.parametrize(
    ("feeds", "triggers"),
    [
        pytest.param("real feeds", "61", marks=pytest.mark.proof),
        pytest.param("our own sample", "3600", marks=[pytest.mark.proof, pytest.mark.timeout(900)], id="t6 60 users x 60 triggers"),
        pytest.param("our own sample", "12"),
    ],
)
def test_the_demo_hands_each_item_over_once_and_logs_one_line_for_each_trigger(tmp_path: Path, feeds: str, triggers: str) -> None:
    nowhere = tmp_path / "nowhere" if feeds == "our own sample" else None
    options = ("--triggers", triggers, "--seconds", "0.05", "--folder", str(tmp_path / "demo"))
    printed = run_demo("triggers", *options, shared=nowhere, timeout=220 if triggers != "3600" else 880)
    assert "nothing twice" in printed
    assert "(nothing was logged)" in printed
    assert "There is no feed at this address (404)" in printed


@pytest.mark.proof
def test_t23_workers_that_are_killed_in_the_middle_of_a_sweep_publish_nothing_twice_and_lose_nothing(tmp_path: Path) -> None:
    script = """
import os, sys, time
from pathlib import Path
import django, psutil
from rich.console import Console
from triggers.demo import Demo
from triggers.stage import Stage, find_feeds

with Stage(Path(sys.argv[1])) as stage:
    stage.start_stand_ins()
    stage.start_chappe()
    os.environ.update(stage.environment())
    django.setup()
    from triggers.models import Item
    from triggers.tasks import FetchAll, PublishAll, app

    demo = Demo(stage, Console())
    demo.people(40)
    stage.control(seconds=0.3)
    app.send(FetchAll(at_once=True))
    stage.wait_for(lambda: Item.objects.count() >= 10, "some items")
    kill = lambda: [p.kill() for p in psutil.Process(stage.processes["chappe"].pid).children(recursive=True) if "worker" in p.name() or "worker" in " ".join(p.cmdline())]
    assert kill()
    time.sleep(2)
    app.send(FetchAll(at_once=True))
    stage.wait_for(lambda: Item.objects.count() >= 36, "all items")
    app.send(PublishAll())
    stage.wait_for(lambda: 0 < len(stage.journal()["taken"]), "the first to be handed over")
    assert kill()
    stage.wait_for(lambda: not Item.objects.filter(done_at=None).exists() or app.send(PublishAll()) is None, "everything to be handed over", 120)
    journal, expected = stage.journal(), demo._expected()
    taken = [(one["service"], one["account"], one["title"]) for one in journal["taken"]]
    print(len(taken), expected.total(), Item.objects.count())
    assert len(taken) == expected.total(), (len(taken), expected)
"""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("CHAPPE_")} | {
        "PYTHONPATH": EXAMPLES, "CHAPPE_SHARED": str(tmp_path / "nowhere"),
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "x")], env=environment, capture_output=True, text=True, timeout=220, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def test_t20_the_log_reads_like_the_one_of_the_story() -> None:
    if not SHARED.exists():
        pytest.skip("the log of the story is in shared/data, which is absent")
    others = [line for line in SHARED.read_text().splitlines() if not _LINE.fullmatch(line)]
    assert all(re.fullmatch(r"[\d: ,-]+ INFO tasks \d+ recycle of cache done!", line) for line in others)
    assert 0 < len(others) < 5
