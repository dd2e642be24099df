"""The demo itself, as `make demo` starts it, only shorter: its last check compares every calendar with the bookings."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ...servers.postgres import PostgresNode
from ...servers.rabbitmq import RabbitNode

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"


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
    environment = {k: v for k, v in os.environ.items() if not k.startswith("CHAPPE_")} | {"PYTHONPATH": str(EXAMPLES)}
    if shared == "our own sample":
        environment["CHAPPE_SHARED"] = str(tmp_path / "nowhere")
    command = [sys.executable, "-m", "channel_manager.demo", "--seconds", "3", "--folder", str(tmp_path / "demo"), "--broker", broker]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=220, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "listings show exactly what the property database says" in done.stdout
