"""A storm of kills and freezes, small in the gate and larger in the proof: every promise is kept."""

from __future__ import annotations

import json

import pytest

from tests.faults.storm.run import Options, storm


def test_nothing_is_lost_doubled_stuck_or_out_of_order_in_a_small_storm() -> None:
    verdict, evidence = storm(Options(messages=1_500, kills=12, every=0.4, seed=1, rate=300.0, workers=2, patience=180.0))
    assert verdict.is_good, f"{verdict}\n{json.dumps(evidence)}"
    assert verdict.figures["confirmed"] >= 1_500
    assert sum(verdict.figures["kills"].values()) >= 12


@pytest.mark.proof
@pytest.mark.timeout(900)
def test_nothing_is_lost_doubled_stuck_or_out_of_order_in_a_storm_of_two_hundred_kills() -> None:
    verdict, evidence = storm(Options(messages=50_000, kills=200, rate=550.0, patience=600.0))
    assert verdict.is_good, f"{verdict}\n{json.dumps(evidence)}"
    assert verdict.figures["confirmed"] >= 50_000
    assert sum(verdict.figures["kills"].values()) >= 200
    assert verdict.figures["masks"] >= 10_000
    assert verdict.figures["double_starts"] > 0, "kills that hit nothing show nothing"
