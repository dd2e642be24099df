"""The demo itself, as `make demo` starts it, only shorter: its last check compares every calendar with the bookings."""

from pathlib import Path

import pytest

from ...servers.postgres import PostgresNode
from ...servers.rabbitmq import RabbitNode
from ..running import run_demo


@pytest.mark.parametrize(
    ("shared", "broker"),
    [
        pytest.param("real bookings", "file", marks=pytest.mark.proof),
        ("our own sample", "file"),
        pytest.param("real bookings", "rabbitmq", marks=pytest.mark.proof),
    ],
)
def test_the_demo_ends_with_every_calendar_right(tmp_path: Path, shared: str, broker: str) -> None:
    if broker == "rabbitmq" and (missing := RabbitNode.missing() or PostgresNode.missing()):
        pytest.skip(missing)
    nowhere = tmp_path / "nowhere" if shared == "our own sample" else None
    printed = run_demo("channel_manager", "--seconds", "3", "--folder", str(tmp_path / "demo"), "--broker", broker, shared=nowhere)
    assert "listings show exactly what the property database says" in printed
