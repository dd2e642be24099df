"""`chappe run` over the auction house, as real processes in a folder of their own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import httpx2
import psutil

from processes import Installation

_HERE: Final = Path(__file__).resolve().parent


class Stage(Installation):
    """A folder with the books of the house, and Chappe over them."""

    timeout = 30.0

    def __init__(self, folder: Path, *, urls: Mapping[str, str] | None = None) -> None:
        super().__init__(folder, _HERE / "chappe.toml", urls)
        self.books = folder / "auctions.db"

    def environment(self) -> dict[str, str]:
        return {
            **super().environment(),
            "AUCTIONS_DATABASE": str(self.books),
            "AUCTIONS_ZEROMQ": str(self.folder),
            "CHAPPE_PAGES": str(_HERE / "pages"),
        }

    def post(self, command: str, fields: Mapping[str, Any], **headers: str) -> httpx2.Response:
        """Send a command."""
        return self.http.post(f"{self.gateway_url}/commands/{command}", json=dict(fields), headers=headers)

    def chappe(self, *arguments: str) -> str:
        """Run a `chappe` command as an operator does, and return what it prints."""
        command = [sys.executable, "-m", "chappe", *arguments]
        done = subprocess.run(command, env=self.environment(), cwd=self.folder, capture_output=True, text=True, check=True)
        return done.stdout

    def children(self, role: str) -> list[psutil.Process]:
        """Return the processes of a role, like `worker` or `gateway`, that `chappe run` has started."""
        found = psutil.Process(self.processes["chappe"].pid).children(recursive=True)
        return [process for process in found if f"chappe {role}" in " ".join(process.cmdline())]
