"""Build the pages before they are packed, where Node is; whoever installs the wheel needs none."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class Pages(BuildHookInterface):  # type: ignore[type-arg]
    """Hatchling asks this before it packs anything."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build the pages, unless they are there, or only an editable checkout is installed."""
        sources = Path(self.root) / "dashboard"
        if version == "editable" or (Path(self.root) / "src/chappe/web/dashboard/index.html").is_file():
            return
        if shutil.which("npm") is None:
            print("Node is not here: what is built has no pages of the dashboard", file=sys.stderr)
            return
        subprocess.run(["npm", "ci", "--no-audit", "--no-fund"], cwd=sources, check=True)
        subprocess.run(["npm", "run", "build"], cwd=sources, check=True)
