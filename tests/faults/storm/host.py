"""`chappe run` and the publishers of a storm in a folder: started, found, and started again whenever they are gone."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import apsw
import msgspec
import psutil

from chappe import App
from chappe.engines.contract.store import Store
from chappe.errors import BrokerError
from chappe.settings import Settings
from tests.faults import planted
from tests.faults.storm import killer
from tests.servers.ports import free_ports

T = TypeVar("T")

DATABASE = "chappe.db"
STATUS = "chappe.db.processes"
PUBLISHERS: Mapping[str, tuple[str, float]] = {
    "batches1": ("batches", 0.35),
    "batches2": ("batches", 0.35),
    "steps1": ("steps", 0.14),
    "masks1": ("masks", 0.11),
    "http1": ("http", 0.05),
}
"""Each publisher's kind and its part of the messages; with the masks in batches a fifth of all are masks."""


class Host:
    """All processes of a storm."""

    def __init__(self, folder: Path, *, workers: int, concurrency: int, rate: float, pace: float, plant: str | None = None) -> None:
        self.folder = folder
        self._workers = workers
        self._rate = rate
        (self._port,) = free_ports(1)
        kept = {k: v for k, v in os.environ.items() if not k.startswith("CHAPPE_") and k not in ("PORT", "LOG_LEVEL")}
        self._environment = {
            **kept, **planted.environment(plant), "CHAPPE_APP": "tests.faults.storm.application:app", "CHAPPE_PORT": str(self._port),
            "STORM_PACE": str(pace),
        }  # fmt: skip
        self._run: subprocess.Popen[bytes] | None = None
        self._publishers: dict[str, subprocess.Popen[bytes]] = {}
        self.starts = 0
        self.wrong_ends: list[str] = []
        (folder / "chappe.toml").write_text(f"[pools.storm]\nprocesses = {workers}\nconcurrency = {concurrency}\n")

    # --- starting

    def _start(self, *arguments: str) -> subprocess.Popen[bytes]:
        with (self.folder / "stderr").open("ab") as errors:
            return subprocess.Popen(
                [sys.executable, "-m", *arguments], cwd=self.folder, env=self._environment, stdout=errors, stderr=errors
            )

    def start_chappe(self) -> None:
        """Start `chappe run`."""
        self.starts += 1
        self._run = self._start("chappe", "run")

    def start_publisher(self, name: str) -> None:
        """Start a publisher, or start it again."""
        kind, part = PUBLISHERS[name]
        self._publishers[name] = self._start("tests.faults.storm.publishers", name, kind, str(self._rate * part))

    @property
    def publishers(self) -> Sequence[str]:
        """The names of all publishers."""
        return list(PUBLISHERS)

    def tend_chappe(self) -> None:
        """Start `chappe run` again if it was killed; if it ended by itself it ended wrongly."""
        assert self._run is not None
        if (code := self._run.poll()) is not None:
            if code != -9:
                self.wrong_ends.append(f"chappe run ended with {code}")
            self.start_chappe()

    def tend(self) -> None:
        """Start again what was killed; what ended by itself ended wrongly."""
        self.tend_chappe()
        for name, process in self._publishers.items():
            if (code := process.poll()) is not None:
                if code != -9:
                    self.wrong_ends.append(f"publisher {name} ended with {code}")
                self.start_publisher(name)

    # --- finding

    def rows(self) -> dict[str, int]:
        """Return the process ids that the supervisor wrote down, by name."""
        try:
            lines = (self.folder / STATUS).read_text().splitlines()
        except FileNotFoundError:
            return {}
        return {row[0]: int(row[1]) for row in (line.split("\t") for line in lines) if row[1]}

    def find(self, role: str) -> dict[int, float]:
        """Return the living processes of a role, each with the seconds that it works: workers and publishers since they could."""
        if role == killer.PUBLISHER:
            pids = [process.pid for process in self._publishers.values() if process.poll() is None]
        else:
            rows = self.rows()
            if self._run is None or rows.get("supervisor") != self._run.pid:
                return {}  # the file is of a supervisor that is dead
            pids = [pid for name, pid in rows.items() if name == role or (role == killer.WORKER and name.startswith("storm-"))]
        journals = {killer.WORKER: "runs/worker", killer.PUBLISHER: "sent/*"}.get(role)
        if journals is None:
            return {pid: age for pid in pids if (age := _age(pid)) is not None}
        names = [path.name.rsplit(".", 2) for path in self.folder.glob(f"{journals}.*.*")]
        begun = {int(pid): int(since) / 1e9 for _, pid, since in names}
        now = time.monotonic()
        return {pid: now - begun.get(pid, now) for pid in pids if _age(pid) is not None}

    def is_ours(self, process: psutil.Process) -> bool:
        """Tell whether a process works in the folder of this storm."""
        return process.status() != psutil.STATUS_ZOMBIE and process.cwd() == str(self.folder)

    # --- looking

    def look(self, what: Callable[[Store], Awaitable[T]], *, may_own_file: bool = False) -> T:
        """Ask the engine something; `may_own_file` when nothing runs any more. Raises `BrokerError` while it does not answer."""

        async def ask() -> T:
            app = App("look", settings=Settings(broker=f"sqlite:///{self.folder / DATABASE}"))
            app.configure(app.settings, may_own_file=may_own_file)
            try:
                return await what((await app.connection()).store)
            finally:
                await app.aclose()

        return asyncio.run(ask())

    def waiting(self, *, may_own_file: bool = False) -> dict[str, int] | None:
        """Return how many messages of each queue have not ended, or None while the engine does not answer."""
        try:
            overview = self.look(lambda store: store.overview(), may_own_file=may_own_file)
        except BrokerError:
            return None
        return {q.name: q.ready + q.running + q.delayed for q in overview.queues}

    def effects(self) -> list[tuple[str, str]]:
        """Read what took effect."""
        db = apsw.Connection(str(self.folder / "effects.db"))
        with contextlib.closing(db):
            return [(str(name), str(identity)) for name, identity in db.execute("select name, id from effect")]

    def letters(self) -> list[tuple[str, list[str]]]:
        """Return the dead letters, each with its reason and the names that it held; nothing runs any more."""
        found: list[tuple[str, list[str]]] = []
        after = 0
        while letters := self.look(lambda store: store.letters(after=after, limit=1000), may_own_file=True):  # noqa: B023 - called at once
            after = letters[-1].number
            for letter in letters:
                body = msgspec.json.decode(letter.envelope.body)
                found.append((letter.reason, body.get("fields") or [body.get("name", letter.envelope.type)]))
        return found

    def last_slot(self) -> int:
        """Return the last slot that the scheduler fired; nothing runs any more."""
        return int(self.look(lambda store: store.last_fired("storm:ticks"), may_own_file=True) or 0)

    # --- ending

    def publishers_ended(self) -> bool:
        """Tell whether all publishers have ended in order."""
        for name, process in self._publishers.items():
            code = process.poll()
            if code is None:
                return False
            if code != 0:
                self.start_publisher(name)  # it was killed just before it was quiet: it has to find out what it had sent
                return False
        return True

    def end(self) -> int | None:
        """End `chappe run` in order and give its exit code."""
        assert self._run is not None
        self._run.terminate()
        try:
            return self._run.wait(60)
        except subprocess.TimeoutExpired:
            return None

    def close(self) -> None:
        """Leave nothing running."""
        for process in [*self._publishers.values(), *([self._run] if self._run is not None else [])]:
            if process.poll() is None:
                process.kill()
            process.wait()
        deadline = time.monotonic() + 10
        while (left := self._left()) and time.monotonic() < deadline:
            for process in left:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            time.sleep(0.05)

    def _left(self) -> list[psutil.Process]:
        found: list[psutil.Process] = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.pid != os.getpid() and self.is_ours(process):
                    found.append(process)
        return found


def _age(pid: int) -> float | None:
    """Return the seconds that a process lives, or None if it does not."""
    try:
        return time.time() - psutil.Process(pid).create_time()
    except psutil.Error:
        return None
