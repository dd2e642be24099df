"""Runs a command beside two processes that burn CPU and one that writes to the disk: `python -m tests.busy --times 3 -- make check test`.

A gate that can be trusted stays green so. Its neighbours end with it, whatever ends it.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

SIZE = 64 * 1024 * 1024
PIECE = os.urandom(1024 * 1024)
_PDEATHSIG = 1


def burn() -> None:
    """Use a core."""
    while True:
        pass


def write() -> None:
    """Write a file of bounded size again and again, and have the disk take each piece of it."""
    with tempfile.TemporaryFile() as file:
        while True:
            file.seek(0)
            while file.tell() < SIZE:
                file.write(PIECE)
                file.flush()
                os.fsync(file.fileno())


def _ends_with_its_parent(parent: int, work: Callable[[], None]) -> None:
    ctypes.CDLL(None).prctl(_PDEATHSIG, signal.SIGKILL)
    if os.getppid() == parent:
        work()


@contextlib.contextmanager
def neighbours() -> Iterator[None]:
    """Keep the machine busy for as long as this lasts."""
    spawn = multiprocessing.get_context("spawn")
    running = [spawn.Process(target=_ends_with_its_parent, args=(os.getpid(), work), daemon=True) for work in (burn, burn, write)]
    for process in running:
        process.start()
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.join()


def main() -> int:
    """Run the command so many times, and tell how long each run took; the exit code is that of the last run that failed."""
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    options.add_argument("--times", type=int, default=1)
    options.add_argument("command", nargs="+")
    chosen = options.parse_args()
    worst = 0
    told: list[str] = []
    with neighbours():
        for number in range(1, chosen.times + 1):
            began = time.monotonic()
            code = subprocess.run(chosen.command, check=False).returncode
            told.append(f"run {number}: ended with {code} after {(time.monotonic() - began) / 60:.1f} minutes")
            print(told[-1], file=sys.stderr, flush=True)
            worst = code or worst
    print("\n".join(told))
    return worst


if __name__ == "__main__":
    sys.exit(main())
