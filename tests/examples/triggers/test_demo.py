"""The demo itself, as `make demo-triggers` starts it, only smaller: its last check compares what was handed over with the items."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from triggers.demo import _LINE

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"
SHARED = Path("/work/shared/data/triggers/triggerhappy_2016-04-13.log")


@pytest.mark.parametrize(
    ("feeds", "triggers"), [pytest.param("real feeds", "61", marks=pytest.mark.proof), pytest.param("our own sample", "12")]
)
def test_the_demo_hands_each_item_over_once_and_logs_one_line_for_each_trigger(tmp_path: Path, feeds: str, triggers: str) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("CHAPPE_")} | {"PYTHONPATH": str(EXAMPLES)}
    if feeds == "our own sample":
        environment["CHAPPE_SHARED"] = str(tmp_path / "nowhere")
    command = [sys.executable, "-m", "triggers.demo", "--triggers", triggers, "--seconds", "0.05", "--folder", str(tmp_path / "demo")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=220, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "nothing twice" in done.stdout
    assert "(nothing was logged)" in done.stdout
    assert "There is no feed at this address (404)" in done.stdout


def test_t20_the_log_reads_like_the_one_of_the_story() -> None:
    if not SHARED.exists():
        pytest.skip("the log of the story is in shared/data, which is absent")
    others = [line for line in SHARED.read_text().splitlines() if not _LINE.fullmatch(line)]
    assert all(re.fullmatch(r"[\d: ,-]+ INFO tasks \d+ recycle of cache done!", line) for line in others)
    assert 0 < len(others) < 5
