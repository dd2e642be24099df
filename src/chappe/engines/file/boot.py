"""Tells what was made since the machine started: what is older has been through a loss of power, which is no process's fault."""

from __future__ import annotations

from pathlib import Path


def is_of_this_boot(path: Path) -> bool:
    """Tell whether a file was written since the machine started; false where that cannot be known."""
    try:
        written = path.stat().st_mtime
        with Path("/proc/stat").open("rb") as stat:
            booted = next(int(line.split()[1]) for line in stat if line.startswith(b"btime"))
    except (OSError, StopIteration):
        return False
    return written >= booted
