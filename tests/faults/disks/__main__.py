"""`python -m tests.faults.disks`: as many failing calls as are asked for; prints one line of JSON, which `evidence/` keeps."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from .. import planted
from .calls import run

EVIDENCE = Path(__file__).parents[3] / "evidence"


def main() -> int:
    """Run, and end with 1 if a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.disks", description=__doc__)
    parser.add_argument("--cases", type=int, default=24)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--plant", choices=planted.of("disks"), help="plant a fault into the engines")
    given = parser.parse_args()
    if given.plant is not None:
        os.environ.update(planted.environment(given.plant))
    folder = Path(tempfile.mkdtemp(prefix="noria-disks-"))
    try:
        evidence = run(given.cases, given.seed, folder)
    finally:
        shutil.rmtree(folder)
    if given.plant is None:
        EVIDENCE.mkdir(exist_ok=True)
        (EVIDENCE / f"disks-{given.seed}-{int(time.time())}.json").write_text(json.dumps(evidence) + "\n")
    print(json.dumps(evidence))
    return int(bool(evidence["faults"]))


if __name__ == "__main__":
    sys.exit(main())
