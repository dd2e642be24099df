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
        """Build the pages, unless they are as new as what they are built from, or only an editable checkout is installed."""
        sources, built = Path(self.root) / "dashboard", Path(self.root) / "src/chappe/web/dashboard/index.html"
        newest = max(file.stat().st_mtime for file in (*sources.glob("*.*"), *sources.rglob("src/**/*.*")))
        if version == "editable" or (built.is_file() and built.stat().st_mtime >= newest):
            return
        if shutil.which("npm") is None:
            print("Node is not here: what is built has no pages of the dashboard, or old ones", file=sys.stderr)
            return
        subprocess.run(["npm", "ci", "--no-audit", "--no-fund"], cwd=sources, check=True)
        subprocess.run(["npm", "run", "build"], cwd=sources, check=True)
