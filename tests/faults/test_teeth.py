"""Teeth: each fault that is planted for the storm is caught by a small one, and called by the right name."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from tests.faults.gate import only
from tests.faults.planted import of
from tests.faults.storm.killer import ENGINE, PUBLISHER, WORKER
from tests.faults.storm.run import Options, storm

SMALL = Options(messages=1_500, kills=4, every=0.1, seed=1, rate=600.0, workers=2, pace=0.03, patience=180.0, drain=20.0)
WORKERS, ENGINES = {WORKER: 1.0}, {ENGINE: 1.0}

CAUGHT: dict[str, tuple[set[str], dict[str, Any]]] = {
    "ack-before-handler": ({"lost"}, {"mix": WORKERS}),
    "retry-acked-before-it-is-published": ({"lost"}, {"mix": WORKERS, "kills": 6}),
    "claims-never-given-back": ({"stuck", "lost"}, {"mix": WORKERS, "kills": 2, "drain": 8.0}),
    "mark-before-handler": ({"half done"}, {"mix": WORKERS}),
    "answer-before-commit": ({"lost"}, {"mix": ENGINES, "kills": 2}),
    "keys-not-stored": ({"duplicated"}, {"mix": {PUBLISHER: 1.0}, "kills": 8, "rate": 2_000.0, "messages": 4_000}),  # one is always sending
    "merge-drops-a-field": ({"lost"}, {"kills": 0, "messages": 400}),
    "key-order-ignored": ({"reordered", "overlapping"}, {"kills": 0}),
    "client-confirms-blindly": ({"lost"}, {"mix": ENGINES, "freezes": 1.0, "ends": 1.0, "kills": 2}),
    "yields-leave-before-the-ack": ({"duplicated"}, {"mix": WORKERS}),
}
ELSEWHERE = {"fencing-off"}  # needs a worker frozen for longer than a storm does: tests/faults/test_frozen.py


def test_every_plant_for_the_storm_has_its_test() -> None:
    assert set(of("storm")) == CAUGHT.keys() | ELSEWHERE


@pytest.mark.parametrize("name", only("merge-drops-a-field", CAUGHT))
def test_the_storm_catches(name: str) -> None:
    """Where a fault shows only if a kill meets it in its moment, another small storm may be needed: at most three."""
    faults, options = CAUGHT[name]
    verdicts = list[str]()
    for seed in range(1, 4):
        verdict, _ = storm(dataclasses.replace(SMALL, plant=name, seed=seed, **options))
        if faults & {fault for fault, names in verdict.faults.items() if names}:
            return
        verdicts.append(str(verdict))
    pytest.fail(f"{name} was not caught as {faults}: {verdicts}")
