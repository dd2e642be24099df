"""`python -m tests.faults.disks`: as many failing calls as are asked for; prints one line of JSON, which `evidence/` keeps."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

from .. import planted
from ..evidence import keep_evidence
from .calls import run


def main() -> int:
    """Run, and end with 1 if a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.disks", description=__doc__)
    parser.add_argument("--cases", type=int, default=24)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--plant", choices=planted.of("disks"), help="plant a fault into the engines")
    given = parser.parse_args()
    if given.plant is not None:
        os.environ.update(planted.environment(given.plant))
    folder = Path(tempfile.mkdtemp(prefix="chappe-disks-"))
    try:
        evidence = run(given.cases, given.seed, folder)
    finally:
        shutil.rmtree(folder)
    if given.plant is None:
        keep_evidence(f"disks-{given.seed}", evidence)
    print(json.dumps(evidence))
    return int(bool(evidence["faults"]))


if __name__ == "__main__":
    sys.exit(main())
