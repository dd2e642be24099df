"""`python -m tests.faults.sick`: as many damaged files as are asked for; prints one line of JSON, which `evidence/` keeps."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

from .. import planted
from ..evidence import keep_evidence
from .injuries import Options, run

MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None


def main() -> int:
    """Run, and end with 1 if a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.sick", description=__doc__)
    for name, default in Options._field_defaults.items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"default: {default}")
    parser.add_argument("--plant", choices=planted.of("sick"), help="plant a fault first")
    given = vars(parser.parse_args())
    if (plant := given.pop("plant")) is not None:
        planted.plant(plant)
    options = Options(**given)
    folder = Path(tempfile.mkdtemp(prefix="chappe-sick-", dir=MEMORY))
    try:
        evidence = run(options, folder)
    finally:
        shutil.rmtree(folder)
    if plant is None:
        keep_evidence(f"sick-{options.seed}", evidence)
    print(json.dumps(evidence))
    return int(bool(evidence["faults"]))


if __name__ == "__main__":
    sys.exit(main())
