"""Files damaged at random are refused, harmless or saved; a wrong payload is delivered never."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from chappe.engines.file.server import Engine
from chappe.errors import CorruptStorage

from . import planted
from .gate import only
from .sick.injuries import Options, run
from .sick.patients import patient, run_engine

CASES = 30
SEED = int(os.environ.get("CHAPPE_SEED", "1"))


def test_a_file_damaged_at_random_is_refused_harmless_or_saved_and_nothing_wrong_is_delivered(tmp_path: Path) -> None:
    evidence = run(Options(CASES, SEED), tmp_path)
    assert evidence["faults"] == []
    verdicts = evidence["verdicts"]
    assert sum(verdicts.values()) == CASES
    assert {"refused", "harmless", "damaged letters"} <= {verdict.partition(": ")[2] for verdict in verdicts}
    assert verdicts["flip log: refused"] > 0, "a flipped bit in the log is no torn commit"


@pytest.mark.parametrize("name", only("seals-without-meaning", planted.of("sick")))
def test_a_planted_fault_is_seen(name: str) -> None:
    program = [sys.executable, "-m", "tests.faults.sick", "--plant", name, "--cases", "90", "--most", "1"]
    environment = {**os.environ, **planted.environment()}
    done = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert json.loads(done.stdout)["faults"]


def test_a_file_that_is_damaged_where_the_engine_looks_first_is_refused_with_its_own_error(tmp_path: Path) -> None:
    import apsw  # noqa: PLC0415

    path = patient(tmp_path, 60, checkpoint=True).path
    db = apsw.Connection(str(path))
    root = db.execute("select rootpage from sqlite_schema where name = 'ready'").fetchone()[0]
    db.close()
    data = bytearray(path.read_bytes())
    data[(root - 1) * 4096 : root * 4096] = bytes(4096)
    path.write_bytes(data)
    assert run_engine(path).error is not None
    with pytest.raises(CorruptStorage, match="chappe recover"):
        Engine(path)
