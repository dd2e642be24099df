"""The demo itself, over all 309 real auctions: its last check compares the books, and what everybody heard, with a plain loop."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from auctions.bids import find_bids

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"


@pytest.mark.proof
def test_d15_all_real_auctions_end_as_a_plain_loop_computes_them() -> None:
    if find_bids().name == "sample_bids.csv":
        pytest.skip("the real bids of /work/shared/data are not here")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("CHAPPE_")} | {"PYTHONPATH": str(EXAMPLES)}
    command = [sys.executable, "-m", "auctions.demo", "--seconds", "60", "--auctions", "309", "--wait", "0"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
