"""`make fuzz`: a million random inputs for everything that decodes, and the ones that brought out an undocumented error.

The seed is printed; with `--seed` the same inputs come again. What failed is written as hexadecimal digits.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time

from .gateway import TARGETS as GATEWAY
from .mutation import Mutator
from .targets import TARGETS, Target

SLOWEST = 0.1  # CPU seconds that one input may take


def run(target: Target, count: int, seed: int) -> tuple[list[str], int, float]:
    """Run a target so many times and give what was wrong, how many inputs were refused, and the slowest."""
    mutator, wrong, refused, slowest = Mutator(target.seeds, seed), list[str](), 0, 0.0
    for _ in range(count):
        data = mutator.next()
        started = time.thread_time()
        try:
            target.call(data)
        except target.errors:
            refused += 1
        except Exception as error:  # that is what is looked for
            wrong.append(f"{type(error).__name__}: {error}: {data.hex()}")
        took = time.thread_time() - started
        if took > SLOWEST:
            started = time.thread_time()
            try:
                target.call(data)
            except Exception:
                pass
            took = time.thread_time() - started  # the first time may have paid for something else
            if took > SLOWEST:
                wrong.append(f"took {took:.3f} s: {data.hex()}")
        slowest = max(slowest, took)
    return wrong, refused, slowest


def main() -> int:
    """Run all targets, print a line for each, and give the exit code."""
    options = argparse.ArgumentParser(prog="make fuzz")
    options.add_argument("--executions", type=int, default=1_000_000)
    options.add_argument("--seed", type=int, default=random.getrandbits(32))
    options.add_argument("--target", default="", help="only those with this in their name")
    chosen = options.parse_args()
    failed, total, began = 0, 0, time.monotonic()
    for target in [t for t in (*TARGETS, *GATEWAY) if chosen.target in t.name]:
        count = max(1, round(chosen.executions * target.share))
        started = time.monotonic()
        wrong, refused, slowest = run(target, count, chosen.seed)
        failed += len(wrong)
        total += count
        figures = {
            "target": target.name, "executions": count, "refused": refused, "failed": len(wrong),
            "slowest_ms": round(slowest * 1000, 1), "seconds": round(time.monotonic() - started, 1),
        }  # fmt: skip
        print(json.dumps(figures), flush=True)
        for line in wrong[:5]:
            print(f"  {line[:2000]}", file=sys.stderr)
    print(json.dumps({"seed": chosen.seed, "executions": total, "failed": failed, "seconds": round(time.monotonic() - began, 1)}))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
