"""Runs an example as real processes in a folder of its own, each with a log file, and ends them in order."""

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
from typing import Any, ClassVar, Final, Self

import httpx2

_HERE: Final = Path(__file__).resolve().parent


class Processes:
    """Processes that work in one folder."""

    last: ClassVar[tuple[str, ...]] = ()  # those that the others need, in the order in which they end
    ends_by: ClassVar = signal.SIGTERM
    suffix: ClassVar = "log"
    patience: ClassVar[float] = 60.0

    def __init__(self, folder: Path, urls: Mapping[str, str] | None = None) -> None:
        """Prepare; `urls` are CHAPPE_BROKER and what else is to be set, if messages are not to wait in a file of the folder."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.urls = {"CHAPPE_BROKER": f"sqlite:///{folder / 'chappe.db'}", **(urls or {})}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def environment(self) -> dict[str, str]:
        """Return what every process is given."""
        path = os.pathsep.join([str(_HERE), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        return {**os.environ, "PYTHONPATH": path, **self.urls}

    def start(self, name: str, *arguments: str, stdout: int | None = None) -> subprocess.Popen[bytes]:
        """Start Python; what it prints goes to a file of this name."""
        with (self.folder / f"{name}.{self.suffix}").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, *arguments], stdout=stdout or log, stderr=log, env=self.environment(), cwd=self.folder
            )
        return self.processes[name]

    def start_server(self, name: str, *arguments: str) -> str:
        """Start a server that prints its port in JSON when it listens, and return its address."""
        process = self.start(name, *arguments, stdout=subprocess.PIPE)
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"{name} did not start (exit code {process.wait()}); see {self.folder}/{name}.{self.suffix}")
        return f"http://127.0.0.1:{json.loads(line)['port']}"

    def wait_for(self, condition: Callable[[], Any], what: str, seconds: float | None = None) -> None:
        """Wait until a condition holds; raises `TimeoutError` saying what did not happen."""
        seconds = seconds or self.patience
        deadline = time.monotonic() + seconds
        while not condition():
            dead = [name for name, process in self.processes.items() if process.poll() is not None]
            if dead:
                raise RuntimeError(f"{', '.join(dead)} ended while waiting for {what}; see {self.folder}/*.{self.suffix}")
            if time.monotonic() > deadline:
                raise TimeoutError(f"waited {seconds:g} s in vain for {what}; see {self.folder}/*.{self.suffix}")
            time.sleep(0.05)

    def stop(self, name: str) -> int:
        """End a process, after a minute by force, and return its exit code."""
        self.processes[name].send_signal(self.ends_by)
        return self._exit_code(name)

    def _exit_code(self, name: str) -> int:
        process = self.processes.pop(name)
        try:
            return process.wait(60.0)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()
        finally:
            if process.stdout is not None:
                process.stdout.close()

    def close(self) -> None:
        """End all at once but the `last`, and then those one after the other."""
        others = self.processes.keys() - set(self.last)
        for name in others:
            self.processes[name].send_signal(self.ends_by)
        for name in others:
            self._exit_code(name)
        for name in self.last:
            if name in self.processes:
                self.stop(name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Installation(Processes):
    """An application with what `chappe run` starts for it, and a client of its gateway."""

    timeout: ClassVar[float] = 60.0  # of a request

    def __init__(self, folder: Path, config: Path, urls: Mapping[str, str] | None = None) -> None:
        super().__init__(folder, urls)
        self.config = config
        self.http = httpx2.Client(timeout=self.timeout, trust_env=False)
        self._ports: dict[str, int] = {}

    def environment(self) -> dict[str, str]:
        return {**super().environment(), "CHAPPE_CONFIG": str(self.config), "CHAPPE_PORT": str(self.port("gateway"))}

    def port(self, name: str) -> int:
        """Return a port that was free, always the same for one name and another one for each."""
        while name not in self._ports:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                found: int = probe.getsockname()[1]
            if found not in self._ports.values():
                self._ports[name] = found
        return self._ports[name]

    @property
    def gateway_url(self) -> str:
        """Where Chappe's gateway is."""
        return f"http://127.0.0.1:{self.port('gateway')}"

    def start_chappe(self) -> None:
        """Start everything with `chappe run`, and wait until all queues are served."""
        self.start("chappe", "-m", "chappe", "run")
        self.wait_for(self.serves, "chappe run to be ready")

    def queues(self) -> dict[str, Mapping[str, Any]]:
        """Return the queues by name, as the gateway shows them."""
        answer = self.http.get(f"{self.gateway_url}/api/queues").raise_for_status()
        return {queue["name"]: queue for queue in answer.json()["queues"]}

    def serves(self) -> bool:
        """Tell whether every queue has a consumer."""
        try:
            queues = self.queues()
        except httpx2.HTTPError:
            return False
        return bool(queues) and all(queue["consumers"] for queue in queues.values())

    def answers(self, url: str) -> bool:
        """Tell whether a server answers with 200."""
        try:
            return self.http.get(url).status_code == 200
        except httpx2.HTTPError:
            return False

    def idle(self) -> bool:
        """Tell whether nothing is ready or runs; what is to be done later may wait."""
        return not any(queue["ready"] or queue["running"] for queue in self.queues().values())

    def close(self) -> None:
        super().close()
        self.http.close()
