"""The storm of every build: at least 50,000 confirmed messages under at least 200 kills, and every promise kept."""

from __future__ import annotations

import json

import pytest

from tests.faults.storm.run import Options, storm


@pytest.mark.timeout(420)
def test_nothing_is_lost_doubled_stuck_or_out_of_order_in_a_storm_of_two_hundred_kills() -> None:
    verdict, evidence = storm(Options(messages=50_000, kills=200, rate=550.0, patience=300.0))
    assert verdict.is_good, f"{verdict}\n{json.dumps(evidence)}"
    assert verdict.figures["confirmed"] >= 50_000
    assert sum(verdict.figures["kills"].values()) >= 200
    assert verdict.figures["masks"] >= 10_000
    assert verdict.figures["double_starts"] > 0, "kills that hit nothing show nothing"
