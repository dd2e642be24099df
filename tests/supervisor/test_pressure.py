"""What the governor sees of a host."""

from __future__ import annotations

import random
from collections import deque

from chappe.supervisor.pressure import Probe


def test_a_probe_goes_by_three_quarters_of_its_answers_and_says_nothing_without_any() -> None:
    probe = object.__new__(Probe)  # one that asks nobody
    probe._latest = deque()
    assert probe.quartile() is None
    answers = [float(number) for number in range(20)]
    random.Random(1).shuffle(answers)
    probe._latest.extend(answers)
    assert probe.quartile() == 15.0
