"""`make storm BROKER=…`: rounds of faults of the servers under Chappe; prints one line of JSON, which `evidence/` keeps."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.faults.evidence import tell
from tests.faults.rounds.faults import ALONE_FAULTS, CLUSTER_FAULTS, FAULTS
from tests.faults.rounds.run import Options, rounds, rounds_alone


def main() -> int:
    """Run them and say with the exit code whether every promise was kept."""
    parser = argparse.ArgumentParser(prog="make storm BROKER=…", description=__doc__)
    parser.add_argument("--alone", action="store_true", help="on PostgreSQL by itself, not on RabbitMQ with it")
    parser.add_argument("--rounds", type=int, default=81, help="on one node")
    parser.add_argument("--on-cluster", type=int, default=20, help="on three nodes of RabbitMQ")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument(
        "--only", action="append", default=[], choices=[*FAULTS, *CLUSTER_FAULTS, *ALONE_FAULTS], help="this fault, as often as it is named"
    )
    parser.add_argument("--plant", default=None, help="a fault of ours that must be seen")
    parser.add_argument("--keep", type=Path, default=None, help="a folder to leave everything in")
    given = vars(parser.parse_args())
    keep, run = given.pop("keep"), rounds_alone if given.pop("alone") else rounds
    verdict, evidence = run(Options(**{name: value for name, value in given.items() if value is not None}), keep=keep)
    return tell(verdict, evidence)


if __name__ == "__main__":
    sys.exit(main())
