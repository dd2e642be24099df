"""Everything that read later needs around it, as real processes: the local web, `chappe run`, and the pages."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Self

import httpx2

_HERE: Final = Path(__file__).resolve().parent
_START: Final = 60.0


class Stage:
    """A folder with a database, and the processes over it; ended in order."""

    def __init__(self, folder: Path, *, urls: Mapping[str, str] | None = None, fetch_seconds: float = 3.0, governed: bool = False) -> None:
        """Prepare; `urls` says where messages and articles are kept, if not in files of the folder."""
        self._governed = governed
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.urls = {
            "CHAPPE_BROKER": f"sqlite:///{folder / 'chappe.db'}",
            "READ_LATER_DATABASE": f"sqlite:///{folder / 'read_later.db'}",
            **(urls or {}),
        }
        self._fetch_seconds = fetch_seconds
        self._gateway, self._pages = _free_ports()
        self.web_url = ""
        self.pages_url = f"http://127.0.0.1:{self._pages}"
        self.gateway_url = f"http://127.0.0.1:{self._gateway}"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.http = httpx2.Client(timeout=60.0, trust_env=False)

    def environment(self) -> dict[str, str]:
        """What every process of read later is given."""
        path = os.pathsep.join([str(_HERE.parent), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        return {
            **os.environ,
            "PYTHONPATH": path,
            "READ_LATER_WEB": self.web_url,
            "READ_LATER_FETCH_SECONDS": str(self._fetch_seconds),
            "CHAPPE_CONFIG": str(self._config()),
            "CHAPPE_PORT": str(self._gateway),
            **self.urls,
        }

    def _config(self) -> Path:
        """Write the example's configuration for these pages; the governor would make each run as long as the host is busy."""
        declared, table, governor = (_HERE / "chappe.toml").read_text().partition("[governor]")
        path = self.folder / "chappe.toml"
        path.write_text(declared + (table + governor.replace("127.0.0.1:8000", f"127.0.0.1:{self._pages}") if self._governed else ""))
        return path

    def start_web(self) -> None:
        """Start the server that plays the web."""
        process = self._start("web", "-m", "read_later.local_web", stdout=subprocess.PIPE)
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"the local web did not start; see {self.folder}/web.log")
        self.web_url = f"http://127.0.0.1:{json.loads(line)['port']}"

    def start_pages(self) -> None:
        """Start the pages and wait until they are served."""
        self._start("pages", "-m", "uvicorn", "read_later.pages:pages", "--port", str(self._pages), "--log-level", "warning")
        self.wait_for(lambda: self._answers(f"{self.pages_url}/"), "the pages to be served")

    def start_chappe(self) -> None:
        """Start everything else with `chappe run` and wait until workers serve all queues."""
        self._start("chappe", "-m", "chappe", "run")
        self.wait_for(self._serves, "chappe run to be ready")

    def _start(self, name: str, *arguments: str, stdout: int | None = None) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, *arguments], stdout=stdout or log, stderr=log, env=self.environment(), cwd=self.folder
            )
        self.processes[name] = process
        return process

    def _answers(self, url: str) -> bool:
        try:
            return self.http.get(url).status_code == 200
        except httpx2.TransportError:
            return False

    def _serves(self) -> bool:
        try:
            queues = self.queues()
        except httpx2.HTTPError:
            return False
        return bool(queues) and all(queue["consumers"] for queue in queues.values())

    def queues(self) -> dict[str, Mapping[str, Any]]:
        """Return the queues by name, as the gateway shows them."""
        answer = self.http.get(f"{self.gateway_url}/queues").raise_for_status()
        return {queue["name"]: queue for queue in answer.json()["queues"]}

    def wait_for(self, condition: Callable[[], Any], what: str, seconds: float = _START) -> None:
        """Wait until a condition holds; raises `TimeoutError` saying what did not happen."""
        deadline = time.monotonic() + seconds
        while not condition():
            dead = [name for name, process in self.processes.items() if process.poll() is not None]
            if dead:
                raise RuntimeError(f"{', '.join(dead)} ended while waiting for {what}; see {self.folder}/*.log")
            if time.monotonic() > deadline:
                raise TimeoutError(f"waited {seconds:g} s in vain for {what}; see {self.folder}/*.log")
            time.sleep(0.05)

    def upload(self, file: Path, user: str = "reader") -> httpx2.Response:
        """Upload an export as a program does."""
        with file.open("rb") as content:
            return self.http.post(f"{self.pages_url}/imports", files={"file": (file.name, content)}, headers={"X-User": user})

    def progress(self, number: int, user: str = "reader") -> Mapping[str, Any]:
        """Return how far an import is."""
        return self.http.get(f"{self.pages_url}/imports/{number}/progress", headers={"X-User": user}).raise_for_status().json()

    def stop(self, name: str, seconds: float = 60.0) -> int:
        """End a process with SIGTERM and give its exit code."""
        process = self.processes.pop(name)
        process.send_signal(signal.SIGTERM)
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()
        finally:
            if process.stdout is not None:
                process.stdout.close()

    def close(self) -> None:
        """End everything, the web last."""
        for name in ("pages", "chappe", "web"):
            if name in self.processes:
                self.stop(name)
        self.http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _free_ports() -> tuple[int, int]:
    """Return two ports that nobody has; both are held until both are known, or they could be one."""
    with socket.socket() as one, socket.socket() as other:
        for probe in (one, other):
            probe.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]
