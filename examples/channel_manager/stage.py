"""Everything the channel manager needs around it, as real processes: the channels, and `chappe run`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx2

from channel_manager.bookings import open_properties
from channel_manager.property import PropertyDatabase

_START = 30.0
_HERE = Path(__file__).resolve().parent


class Stage:
    """A folder with a property database, the three channels, and Chappe over them; ended in order."""

    def __init__(
        self, folder: Path, *, properties: int = 40, config: Path = _HERE / "chappe.toml", urls: Mapping[str, str] | None = None
    ) -> None:
        """Prepare; `urls` are CHAPPE_BROKER and what else is to be set, if messages are not to wait in a file of the folder."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.config = config
        self.urls = urls or {"CHAPPE_BROKER": f"sqlite:///{folder / 'chappe.db'}"}
        self.properties = PropertyDatabase(folder / "property.db")
        open_properties(self.properties, properties)
        self.channels_url = ""
        self.gateway_url = ""
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.http = httpx2.Client(timeout=30.0, trust_env=False)

    def environment(self) -> dict[str, str]:
        """What every process of the channel manager is given."""
        path = os.pathsep.join([str(_HERE.parent), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        return {
            **os.environ,
            "PYTHONPATH": path,
            "PROPERTY_DATABASE": str(self.properties.path),
            "CHANNELS_URL": self.channels_url,
            **self.urls,
            "CHAPPE_CONFIG": str(self.config),
            "CHAPPE_PORT": str(self._port()),
        }

    def start_channels(self) -> None:
        """Start the three channels in a process of their own."""
        environment = {**self.environment(), "PYTHONUNBUFFERED": "1"}
        process = subprocess.Popen([sys.executable, "-m", "channel_manager.channel_server"], stdout=subprocess.PIPE, env=environment)
        self.processes["channels"] = process
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"the channels did not start (exit code {process.wait()})")
        self.channels_url = f"http://127.0.0.1:{json.loads(line)['port']}"

    def chappe(self, *arguments: str, name: str = "chappe") -> subprocess.Popen[bytes]:
        """Start a `chappe` command; what it logs goes to a file of its name."""
        log = (self.folder / f"{name}.log").open("ab")
        process = subprocess.Popen(
            [sys.executable, "-m", "chappe", *arguments], stdout=log, stderr=log, env=self.environment(), cwd=self.folder
        )
        log.close()
        self.processes[name] = process
        return process

    def start_chappe(self) -> None:
        """Start everything with `chappe run` and wait until it takes commands and all workers serve."""
        self.chappe("run")
        self.gateway_url = f"http://127.0.0.1:{self._port()}"
        self.wait_for(self._ready, "chappe run to be ready", _START)

    def start_doors(self) -> None:
        """Start the engine and the gateway only: commands are taken, nobody works."""
        self.chappe("engine", name="engine")
        self.chappe("gateway", name="gateway")
        self.gateway_url = f"http://127.0.0.1:{self._port()}"
        self.wait_for(self._open, "the gateway to be ready", _START)

    def start_worker(self, name: str, queues: str, *options: str) -> None:
        """Start one worker process for some queues and wait until it serves them."""
        before = sum(queue["consumers"] for queue in self.queues().values())
        self.chappe("worker", "-n", name, "-Q", queues, *options, name=name)
        self.wait_for(lambda: sum(q["consumers"] for q in self.queues().values()) > before, f"{name} to serve {queues}", _START)

    def _open(self) -> bool:
        try:
            return self.http.get(f"{self.gateway_url}/readyz").status_code == 200
        except httpx2.HTTPError:
            return False

    def _ready(self) -> bool:
        try:
            queues = self.http.get(f"{self.gateway_url}/queues").json()["queues"]
        except httpx2.HTTPError:
            return False
        return bool(queues) and all(queue["consumers"] for queue in queues)

    def wait_for(self, condition: Any, what: str, seconds: float) -> None:
        """Wait until a condition holds; raises `TimeoutError` saying what did not happen."""
        deadline = time.monotonic() + seconds
        while not condition():
            dead = [name for name, process in self.processes.items() if process.poll() not in (None, 0)]
            if dead:
                raise RuntimeError(f"{', '.join(dead)} ended while waiting for {what}; see {self.folder}/*.log")
            if time.monotonic() > deadline:
                raise TimeoutError(f"waited {seconds:g} s in vain for {what}; see {self.folder}/*.log")
            time.sleep(0.05)

    # --- what the back office and an operator do

    def post_mask(self, property_id: int, *what: str) -> httpx2.Response:
        """Post a mask as the back office does."""
        answer = self.http.post(f"{self.gateway_url}/commands/sync.property", json={"property_id": property_id, "what": list(what)})
        answer.raise_for_status()
        return answer

    def manner(self, channel: str, manner: str, **more: float) -> None:
        """Tell a channel how to behave."""
        self.http.post(f"{self.channels_url}/control/{channel}", json={"manner": manner, **more}).raise_for_status()

    def queues(self) -> dict[str, Mapping[str, Any]]:
        """Return the queues by name, as the gateway shows them."""
        return {queue["name"]: queue for queue in self.http.get(f"{self.gateway_url}/queues").json()["queues"]}

    def stats(self) -> Mapping[str, Any]:
        """Return what the channels counted."""
        return self.http.get(f"{self.channels_url}/stats").json()

    def state(self) -> Mapping[str, Any]:
        """Return the calendars that the channels show."""
        return self.http.get(f"{self.channels_url}/state").json()

    def idle(self) -> bool:
        """Tell whether nothing waits or runs, and every push was confirmed."""
        busy = any(q["ready"] or q["running"] or q["delayed"] for q in self.queues().values())
        return not busy and self.stats()["confirmations"]["pending"] == 0

    # --- the end

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
        """End everything, the channels last."""
        for name, process in self.processes.items():
            if name not in ("channels", "engine"):
                process.send_signal(signal.SIGTERM)
        for name in sorted(self.processes, key=("engine", "channels").__contains__):
            self.stop(name)
        self.http.close()
        self.properties.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _port(self) -> int:
        if not hasattr(self, "_chosen"):
            import socket

            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                self._chosen: int = probe.getsockname()[1]
        return self._chosen
