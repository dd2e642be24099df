"""`chappe run` over the auction house, as real processes in a folder of their own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx2
import psutil

_HERE = Path(__file__).resolve().parent
_START = 60.0


class Stage:
    """The processes, ended in order."""

    def __init__(self, folder: Path, *, urls: Mapping[str, str] | None = None) -> None:
        """Prepare; `urls` are CHAPPE_BROKER and what else is to be set, if messages are not to wait in a file of the folder."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.books = folder / "auctions.db"
        self.urls = urls or {"CHAPPE_BROKER": f"sqlite:///{folder / 'chappe.db'}"}
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.http = httpx2.Client(timeout=30.0, trust_env=False)
        self._process: subprocess.Popen[bytes] | None = None

    def environment(self) -> dict[str, str]:
        """What every process is given."""
        path = os.pathsep.join([str(_HERE.parent), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        return {
            **os.environ,
            **self.urls,
            "PYTHONPATH": path,
            "AUCTIONS_DATABASE": str(self.books),
            "CHAPPE_CONFIG": str(_HERE / "chappe.toml"),
            "CHAPPE_PAGES": str(_HERE / "pages"),
            "CHAPPE_PORT": str(self.port),
        }

    def start(self) -> None:
        """Start everything, and wait until bids are taken and handled."""
        with (self.folder / "chappe.log").open("ab") as log:
            command = [sys.executable, "-m", "chappe", "run"]
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env=self.environment(), cwd=self.folder)
        deadline = time.monotonic() + _START
        while not self._ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"chappe run did not start; see {self.folder}/chappe.log")
            time.sleep(0.05)

    def _ready(self) -> bool:
        try:
            queues = self.http.get(f"{self.url}/queues").json()["queues"]
        except httpx2.HTTPError:
            return False
        return bool(queues) and all(queue["consumers"] for queue in queues)

    def post(self, command: str, fields: Mapping[str, Any], **headers: str) -> httpx2.Response:
        """Send a command."""
        return self.http.post(f"{self.url}/commands/{command}", json=dict(fields), headers=headers)

    def chappe(self, *arguments: str) -> str:
        """Run a `chappe` command as an operator does, and return what it prints."""
        command = [sys.executable, "-m", "chappe", *arguments]
        done = subprocess.run(command, env=self.environment(), cwd=self.folder, capture_output=True, text=True, check=True)
        return done.stdout

    def idle(self) -> bool:
        """Tell whether nothing waits or runs, but what is to be closed later."""
        return not any(q["ready"] or q["running"] for q in self.http.get(f"{self.url}/queues").json()["queues"])

    def processes(self, role: str) -> list[psutil.Process]:
        """Return the processes of a role, like `worker` or `gateway`."""
        assert self._process is not None, "it was not started"
        found = psutil.Process(self._process.pid).children(recursive=True)
        return [process for process in found if f"chappe {role}" in " ".join(process.cmdline())]

    def close(self) -> None:
        """End everything."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait()
        self.http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
