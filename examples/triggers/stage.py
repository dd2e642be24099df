"""Everything the triggers need around them, as real processes: the stand-ins, `chappe run`, and the web server of the project."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from processes import Installation

_HERE: Final = Path(__file__).resolve().parent
_MANAGE: Final = str(_HERE / "manage.py")


def find_feeds() -> Path:
    """Return the folder with real feeds if it is there, or else a few that were written for this example."""
    shared = Path(os.environ.get("CHAPPE_SHARED", "/work/shared")) / "data" / "feeds"
    return shared if shared.is_dir() else _HERE / "sample_feeds"


class Stage(Installation):
    """A folder with the project's database, the stand-ins, and the project over them."""

    last = ("stand-ins",)

    def __init__(self, folder: Path, *, feeds: Path | None = None, urls: Mapping[str, str] | None = None) -> None:
        """Prepare, and migrate the database; without `urls` the project's own settings say where messages wait."""
        super().__init__(folder, _HERE / "chappe.toml")
        self.urls = dict(urls or {})
        self.feeds = feeds or find_feeds()
        self.stand_ins_url = ""
        self.web_url = f"http://127.0.0.1:{self.port('web')}"
        subprocess.run([sys.executable, _MANAGE, "migrate", "--verbosity", "0"], env=self.environment(), check=True)

    def environment(self) -> dict[str, str]:
        return {**super().environment(), "TRIGGERS_FOLDER": str(self.folder), "DJANGO_SETTINGS_MODULE": "triggers.settings"}

    def start_stand_ins(self) -> None:
        """Start the feeds and services in a process of their own."""
        self.stand_ins_url = self.start_server("stand-ins", "-m", "triggers.stand_ins", str(self.feeds.resolve()))

    def start_chappe(self) -> None:
        """Start `manage.py chappe run` and wait until all its workers serve."""
        self.start("chappe", _MANAGE, "chappe", "run")
        self.wait_for(self.serves, "the workers to serve")

    def start_web(self) -> None:
        """Start the project's web server with its admin."""
        self.start("web", _MANAGE, "runserver", "--noreload", str(self.port("web")))
        self.wait_for(lambda: self.answers(f"{self.web_url}/admin/login/"), "the admin to answer")

    def control(self, **manner: float) -> None:
        """Tell the stand-ins how to behave."""
        self.http.post(f"{self.stand_ins_url}/control", json=manner).raise_for_status()

    def add(self, number: int, title: str) -> None:
        """Have a feed grow by an entry."""
        self.http.post(f"{self.stand_ins_url}/feeds/{number}", json={"title": title}).raise_for_status()

    def journal(self) -> Mapping[str, Any]:
        """Return what the services were handed."""
        return self.http.get(f"{self.stand_ins_url}/journal").json()
