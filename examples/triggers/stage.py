"""Everything the triggers need around them, as real processes: the stand-ins, `chappe run`, and the web server of the project."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import httpx2

_HERE: Final = Path(__file__).resolve().parent
_START: Final = 60.0


def find_feeds() -> Path:
    """Return the folder with real feeds if it is there, or else a few that were written for this example."""
    shared = Path(os.environ.get("CHAPPE_SHARED", "/work/shared")) / "data" / "feeds"
    return shared if shared.is_dir() else _HERE / "sample_feeds"


class Stage:
    """A folder with the project's database and the processes over it; ended in order."""

    def __init__(self, folder: Path, *, feeds: Path | None = None, urls: Mapping[str, str] | None = None) -> None:
        """Prepare, and migrate the database; `urls` are CHAPPE_BROKER and what else is to be set, where messages wait in no file."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.feeds = feeds or find_feeds()
        self.stand_ins = ""
        self.http = httpx2.Client(timeout=60.0, trust_env=False)
        self._urls = dict(urls or {})
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._ports: dict[str, int] = {}
        subprocess.run(self._manage("migrate", "--verbosity", "0"), env=self.environment(), check=True)

    def environment(self) -> dict[str, str]:
        """What every process of the project is given."""
        path = os.pathsep.join([str(_HERE.parent), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        ours = {"PYTHONPATH": path, "TRIGGERS_FOLDER": str(self.folder), "DJANGO_SETTINGS_MODULE": "triggers.settings"}
        return {**os.environ, **ours, **self._urls, "CHAPPE_CONFIG": str(_HERE / "chappe.toml"), "CHAPPE_PORT": str(self.port("gateway"))}

    def port(self, name: str) -> int:
        """Return a free port for a server of this stage, always the same."""
        if name not in self._ports:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                self._ports[name] = probe.getsockname()[1]
        return self._ports[name]

    @property
    def gateway(self) -> str:
        """Where Chappe's gateway is."""
        return f"http://127.0.0.1:{self.port('gateway')}"

    @property
    def web(self) -> str:
        """Where the project's own pages are."""
        return f"http://127.0.0.1:{self.port('web')}"

    def _manage(self, *arguments: str) -> list[str]:
        return [sys.executable, str(_HERE / "manage.py"), *arguments]

    def start_stand_ins(self) -> None:
        """Start the feeds and services in a process of their own."""
        command = [sys.executable, "-m", "triggers.stand_ins", str(self.feeds)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, env=self.environment())
        self._processes["stand-ins"] = process
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"the stand-ins did not start (exit code {process.wait()})")
        self.stand_ins = f"http://127.0.0.1:{json.loads(line)['port']}"

    def start(self, name: str, *arguments: str) -> None:
        """Start a command of manage.py; what it logs goes to a file of its name."""
        with (self.folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                self._manage(*arguments), stdout=log, stderr=log, env=self.environment(), cwd=self.folder
            )

    def start_chappe(self) -> None:
        """Start `manage.py chappe run` and wait until all its workers serve."""
        self.start("chappe", "chappe", "run")
        self.wait_for(self._serves, "the workers to serve")

    def start_web(self) -> None:
        """Start the project's web server with its admin."""
        self.start("web", "runserver", "--noreload", str(self.port("web")))
        self.wait_for(lambda: self._answers(f"{self.web}/admin/login/"), "the admin to answer")

    def _serves(self) -> bool:
        try:
            queues = self.http.get(f"{self.gateway}/queues").json()["queues"]
        except httpx2.HTTPError:
            return False
        return bool(queues) and all(queue["consumers"] for queue in queues)

    def idle(self) -> bool:
        """Tell whether nothing is ready or runs."""
        queues = self.http.get(f"{self.gateway}/queues").json()["queues"]
        return not any(queue["ready"] or queue["running"] for queue in queues)

    def _answers(self, url: str) -> bool:
        try:
            return self.http.get(url).status_code == 200
        except httpx2.HTTPError:
            return False

    def wait_for(self, condition: Callable[[], Any], what: str, seconds: float = _START) -> None:
        """Wait until a condition holds; raises `TimeoutError` saying what did not happen."""
        deadline = time.monotonic() + seconds
        while not condition():
            dead = [name for name, process in self._processes.items() if process.poll() is not None]
            if dead:
                raise RuntimeError(f"{', '.join(dead)} ended while waiting for {what}; see {self.folder}/*.log")
            if time.monotonic() > deadline:
                raise TimeoutError(f"waited {seconds:g} s in vain for {what}; see {self.folder}/*.log")
            time.sleep(0.02)

    def control(self, **manner: float) -> None:
        """Tell the stand-ins how to behave."""
        self.http.post(f"{self.stand_ins}/control", json=manner).raise_for_status()

    def add(self, number: int, title: str) -> None:
        """Have a feed grow by an entry."""
        self.http.post(f"{self.stand_ins}/feeds/{number}", json={"title": title}).raise_for_status()

    def journal(self) -> Mapping[str, Any]:
        """Return what the services were handed."""
        return self.http.get(f"{self.stand_ins}/journal").json()

    def stop(self, name: str, *, kill: bool = False) -> int:
        """End a process, in order or not, and give its exit code."""
        process = self._processes.pop(name)
        process.kill() if kill else process.terminate()
        try:
            return process.wait(60.0)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()
        finally:
            if process.stdout is not None:
                process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for name in sorted(self._processes, key="stand-ins".__eq__):
            self.stop(name)
        self.http.close()
