"""Reads what processes cost: CPU time to the microsecond, and memory that is shared counted once."""

from __future__ import annotations

import contextlib
import os
import resource
import time
from collections.abc import Iterable
from pathlib import Path

import psutil


def cpu(processes: Iterable[int]) -> float:
    """Return the CPU seconds of living processes, all threads together.

    The process's own clock counts nanoseconds, where /proc/…/stat counts hundredths of a second.
    """
    return sum(time.clock_gettime((~process << 3) | 2) for process in processes)


def pss(processes: Iterable[int]) -> float:
    """Return the memory of processes in MB; what several share is split among all that share it."""
    return sum(psutil.Process(process).memory_full_info().pss for process in processes) / 1e6


def tree(process: int) -> list[psutil.Process]:
    """Return a process and all below it."""
    first = psutil.Process(process)
    return [first, *first.children(recursive=True)]


class Machine:
    """What the whole machine did since this was made: how much of it was not ours says how far figures can be trusted."""

    def __init__(self) -> None:
        self._at = time.monotonic()
        self._all = _busy()
        self._ours = _ours()

    def others(self) -> float:
        """Return how many cores the rest of the machine used meanwhile, and its host took away."""
        passed = time.monotonic() - self._at
        return max(0.0, (_busy() - self._all - (_ours() - self._ours)) / passed)


def _busy() -> float:
    """Return the seconds that all cores worked, and that the host of a virtual machine gave to others."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    user, nice, system, _, _, irq, softirq, steal = map(int, fields[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def _ours() -> float:
    """Return the seconds of this process, of all below it that ended, and of those that run, like a peer's server."""
    seconds = sum(used.ru_utime + used.ru_stime for used in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))
    for process in tree(os.getpid())[1:]:
        with contextlib.suppress(OSError):  # it ended meanwhile
            seconds += cpu([process.pid])
    return seconds


def percentile(values: Iterable[float], share: float) -> float:
    """Return the value that a share of all values does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))]
