"""`python -m tests.faults.storm`: a storm of the size that is asked for; prints one line of JSON, which `evidence/` keeps."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.faults.evidence import tell
from tests.faults.storm.run import Options, storm


def main() -> int:
    """Run it and say with the exit code whether every promise was kept."""
    parser = argparse.ArgumentParser(prog="make storm", description=__doc__)
    parser.add_argument("--messages", type=int, default=500_000)
    parser.add_argument("--kills", type=int, default=2_000)
    parser.add_argument("--every", type=float, default=0.2, help="seconds between two strikes")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--rate", type=float, default=500.0, help="messages a second, all publishers together")
    parser.add_argument("--workers", type=int, default=6)
    parser.add_argument("--plant", default=None, help="a fault of tests/faults/planted.py")
    parser.add_argument("--patience", type=float, default=3600.0, help="seconds after which the goals must be reached")
    parser.add_argument("--keep", type=Path, default=None, help="a folder to leave everything in")
    given = vars(parser.parse_args())
    keep = given.pop("keep")
    verdict, evidence = storm(Options(**{name: value for name, value in given.items() if value is not None}), keep=keep)
    return tell(verdict, evidence)


if __name__ == "__main__":
    sys.exit(main())
