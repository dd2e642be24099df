"""The meters of the bench see what a process really spends."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
from benchmarks.meters import cpu, pss

pytestmark = pytest.mark.proof

_BURN = "import time\nprint(flush=True)\nwhile time.process_time() < 60: pass"
_REST = "import sys\nprint(flush=True)\nsys.stdin.read()"


def test_who_works_is_seen_to_spend_cpu_and_who_rests_is_not() -> None:
    spent: dict[str, float] = {}
    for name, code in (("works", _BURN), ("rests", _REST)):
        with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            try:
                assert process.stdout is not None
                process.stdout.readline()
                before = cpu([process.pid])
                until = time.monotonic() + 20
                while cpu([process.pid]) - before < 0.05 and time.monotonic() < until and name == "works":
                    time.sleep(0.01)
                spent[name] = cpu([process.pid]) - before
                assert pss([process.pid]) > 1
            finally:
                process.kill()
    assert spent["works"] >= 0.05
    assert spent["rests"] < 0.05
