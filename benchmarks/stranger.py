"""A process that has nothing to do with Chappe and computes in some threads: `python -m benchmarks.stranger 4 600`."""

from __future__ import annotations

import json
import sys
import threading

from benchmarks.application import burn_for


def main(threads: int, seconds: float) -> None:
    """Compute."""
    burning = [threading.Thread(target=burn_for, args=(seconds,)) for _ in range(threads)]
    for thread in burning:
        thread.start()
    print(json.dumps("burning"), flush=True)
    for thread in burning:
        thread.join()


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
