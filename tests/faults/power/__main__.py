"""`python -m tests.faults.power`: as many power cuts as are asked for; prints one line of JSON, which `evidence/` keeps."""

from __future__ import annotations

import argparse
import json
import sys

from .. import planted
from ..evidence import keep_evidence
from .run import Options, run, tape_of


def main() -> int:
    """Run, and end with 1 if a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.power", description=__doc__)
    for name, default in Options._field_defaults.items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"default: {default}")
    parser.add_argument("--plant", choices=planted.of("power"), help="plant a fault first, and stop at the first broken promise")
    given = vars(parser.parse_args())
    plant = given.pop("plant")
    options = Options(**given)
    if plant is not None:
        planted.plant(plant)
        done = tape_of(options.seed, options.points, options.rounds, most=1)
        print(json.dumps({"plant": plant, "points": done.report.points, "faults": list(map(str, done.report.faults))}))
        return int(bool(done.report.faults))
    evidence = run(options)
    keep_evidence(f"power-{options.seed}", evidence)
    print(json.dumps(evidence))
    return int(bool(evidence["faults"]))


if __name__ == "__main__":
    sys.exit(main())
