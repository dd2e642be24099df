"""Nobody reads stderr: what Chappe does goes on, and ends when it is told to."""

import os
import signal
import subprocess
import sys

import pytest

from ..waiting import until
from .conftest import Mill

LOUD = """
import logging, logging.config
import mill
from chappe import Command
from mill import app

class Flood(Command, queue="flood", results=True):
    lines: int

@app.handles(Flood)
async def flood(command: Flood):
    for _ in range(command.lines):
        logging.getLogger("loud").warning("x" * 1000)
"""


@pytest.mark.timeout(120)
def test_nobody_reads_stderr_and_messages_are_handled_and_term_ends_all(mill: Mill) -> None:
    (mill.folder / "loud.py").write_text(LOUD)
    mill.environment["CHAPPE_APP"] = "loud:app"
    reading, writing = os.pipe()
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "chappe", "run", "--no-gateway", "--no-scheduler"],
            cwd=mill.folder, env=mill.environment, stdout=writing, stderr=writing,
        )  # fmt: skip
        mill.started.append(process)
        os.close(writing)
        until(lambda: "default-1" in mill.rows(), "the worker to start", 60)
        assert mill.chappe("send", "flood", "lines=3000", "--wait", "60").stdout == "null\n"
        os.kill(mill.pid("default-1"), signal.SIGUSR1)  # writes stacks
        assert mill.chappe("send", "work", "name=after", "--wait", "60").stdout == "null\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        os.close(reading)
