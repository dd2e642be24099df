"""Says which tests run alone on the machine; the others share its cores (`make test`)."""

from __future__ import annotations

from pathlib import Path

import pytest

HERE = Path(__file__).parent
ALONE = (  # loads, and tests whose bounds are seconds of real processes
    "benchmarks", "examples", "processes", "servers", "faults/storm", "faults/test_disks.py", "faults/test_frozen.py",
    "faults/test_full_disk.py", "faults/test_orphans.py", "faults/test_recovery.py", "faults/test_storm.py",
    "faults/test_time.py",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what runs alone by where it is."""
    places = [HERE / name for name in ALONE]
    assert all(place.exists() for place in places), "a place that was renamed must not lose its mark"
    for item in items:
        if any(item.path.is_relative_to(place) for place in places):
            item.add_marker("alone")
