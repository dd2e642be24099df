"""The prefetch: how many messages a worker asks for ahead."""

import pytest

from chappe.worker.prefetch import MOST, ahead


@pytest.mark.parametrize(
    ("rate", "concurrency", "count"),
    [
        (0.0, 1, 0),
        (20.0, 100, 0),
        (50.0, 100, 1),
        (1000.0, 100, 20),
        (1000.0, 1, 20),
        (10_000.0, 1, 50),
        (10_000.0, 4, 200),
        (1e9, 10_000, MOST),
    ],
)
def test_what_is_held_ahead(rate: float, concurrency: int, count: int) -> None:
    assert ahead(rate, concurrency) == count


def test_w10_a_worker_of_slow_handlers_never_hoards() -> None:
    assert max(ahead(1 / seconds, 100) for seconds in (0.1, 1.0, 60.0)) == 0
