"""Everything that read later needs around it, as real processes: the local web, `chappe run`, and the pages."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx2

from processes import Installation


class Stage(Installation):
    """A folder with a database, the local web, and read later over them."""

    last = ("chappe", "web")

    def __init__(self, folder: Path, *, urls: Mapping[str, str] | None = None, fetch_seconds: float = 3.0, governed: bool = False) -> None:
        """Prepare; `urls` says where messages and articles are kept, if not in files of the folder."""
        database = {"READ_LATER_DATABASE": f"sqlite:///{folder / 'read_later.db'}"}
        super().__init__(folder, folder / "chappe.toml", database | dict(urls or {}))
        self._fetch_seconds = fetch_seconds
        self.web_url = ""
        self.pages_url = f"http://127.0.0.1:{self.port('pages')}"
        # The example's configuration for these pages; the governor would make each run as long as the host is busy.
        declared, table, governor = Path(__file__).resolve().with_name("chappe.toml").read_text().partition("[governor]")
        governor = table + governor.replace("http://127.0.0.1:8000", self.pages_url)
        self.config.write_text(declared + (governor if governed else ""))

    def environment(self) -> dict[str, str]:
        return {**super().environment(), "READ_LATER_WEB": self.web_url, "READ_LATER_FETCH_SECONDS": str(self._fetch_seconds)}

    def start_web(self) -> None:
        """Start the server that plays the web."""
        self.web_url = self.start_server("web", "-m", "read_later.local_web")

    def start_pages(self) -> None:
        """Start the pages and wait until they are served."""
        self.start("pages", "-m", "uvicorn", "read_later.pages:pages", "--port", str(self.port("pages")), "--log-level", "warning")
        self.wait_for(lambda: self.answers(f"{self.pages_url}/"), "the pages to be served")

    def upload(self, file: Path, user: str = "reader") -> httpx2.Response:
        """Upload an export as a program does."""
        with file.open("rb") as content:
            return self.http.post(f"{self.pages_url}/imports", files={"file": (file.name, content)}, headers={"X-User": user})

    def progress(self, number: int, user: str = "reader") -> Mapping[str, Any]:
        """Return how far an import is."""
        return self.http.get(f"{self.pages_url}/imports/{number}/progress", headers={"X-User": user}).raise_for_status().json()
