"""Runs the demo of an example as `make` does."""

import os
import subprocess
import sys
from pathlib import Path

from .conftest import EXAMPLES


def run_demo(example: str, *arguments: str, shared: Path | None = None, timeout: float = 220) -> str:
    """Return what a demo printed that ended well, with the real data or with those of a folder."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("CHAPPE_") or k == "CHAPPE_SHARED"}
    environment = kept | {"PYTHONPATH": EXAMPLES} | ({"CHAPPE_SHARED": str(shared)} if shared else {})
    command = [sys.executable, "-m", f"{example}.demo", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout
