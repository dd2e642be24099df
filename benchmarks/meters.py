"""Reads what processes cost: CPU time to the microsecond, and memory that is shared counted once."""

from __future__ import annotations

import time
from collections.abc import Iterable

import psutil


def cpu(processes: Iterable[int]) -> float:
    """Give the CPU seconds of living processes, all threads together.

    The process's own clock counts nanoseconds, where /proc/…/stat counts hundredths of a second.
    """
    return sum(time.clock_gettime((~process << 3) | 2) for process in processes)


def pss(processes: Iterable[int]) -> float:
    """Give the memory of processes in MB; what several share is split among all that share it."""
    return sum(psutil.Process(process).memory_full_info().pss for process in processes) / 1e6


def tree(process: int) -> list[psutil.Process]:
    """Give a process and all below it."""
    first = psutil.Process(process)
    return [first, *first.children(recursive=True)]


def percentile(values: Iterable[float], share: float) -> float:
    """Give the value that a share of all values does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))]
