"""Small disks of a test's own: they can be filled to the last byte, or made to stand still."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ...waiting import until

MEBIBYTE = 1024 * 1024

needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed: make tools")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a disk")


class Disk:
    """A small disk of its own, which can be filled to the last byte."""

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self.size = size
        path.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(path)], check=True)

    def fill(self) -> None:
        """Take all the room there is."""
        with (self.path / "foreign").open("ab", buffering=0) as file:
            for block in (MEBIBYTE, 4096, 1):
                try:
                    while True:
                        file.write(bytes(block))
                except OSError:
                    continue

    def give_back(self, size: int) -> None:
        """Free so many bytes of what was taken."""
        path = self.path / "foreign"
        os.truncate(path, path.stat().st_size - size)

    def free(self) -> None:
        """Return it back."""
        (self.path / "foreign").unlink(missing_ok=True)

    def room(self) -> int:
        """Return the bytes that are free."""
        found = os.statvfs(self.path)
        return found.f_bavail * found.f_frsize

    def close(self) -> None:
        """Take it away, as soon as the killed processes let go of it."""
        until(lambda: subprocess.run(["umount", "-q", str(self.path)], check=False).returncode == 0, "the disk to be unmounted")


class FrozenDisk:
    """A disk with a file system that can be frozen: whoever writes to it waits in the kernel, as on a disk that stands still."""

    def __init__(self, path: Path) -> None:
        self.path = path
        image = path.with_suffix(".image")
        image.touch()
        os.truncate(image, 64 * MEBIBYTE)
        subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)
        path.mkdir()
        subprocess.run(["mount", "-o", "loop", str(image), str(path)], check=True)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Have it stand still for as long as the block runs."""
        subprocess.run(["fsfreeze", "--freeze", str(self.path)], check=True)
        try:
            yield
        finally:
            subprocess.run(["fsfreeze", "--unfreeze", str(self.path)], check=True)

    def close(self) -> None:
        """Take it away, as soon as the killed processes let go of it."""
        until(lambda: subprocess.run(["umount", "-q", str(self.path)], check=False).returncode == 0, "the disk to be unmounted")
