"""`python -m tests.faults.power.stack`: a real `chappe run` under strace, whose disk is rebuilt at every system call that changed it.

Unlike the workload inside one process, nothing here is recorded by us: the kernel's calls are, with the 202s as they leave the gateway.
Prints one line of JSON, which `evidence/` keeps.
"""

from __future__ import annotations

import argparse
import collections
import http.client
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from random import Random
from typing import Any, Final

from .. import planted
from ..evidence import keep_evidence
from .cuts import OPERATIONS, Report, Scene, cut
from .disk import Disk, Operation
from .promises import Fact, Wrong
from .run import MEMORY
from .trace import CALLS, Taken, read

_NAME: Final = "chappe.db"
_APPLICATION: Final = """
from chappe import App, Command, Event

app = App("shop")


class Ordered(Event):
    n: int
    text: str


class Order(Command, queue="orders"):
    n: int
    text: str = ""


@app.handles(Order)
async def order(command: Order):
    yield Ordered(n=command.n, text=command.text)
"""
_STRACE: Final = ("strace", "-f", "--seccomp-bpf", "-y", "-xx", "-s", "100000000", "-qq", "-e", "signal=none", "-e", f"trace={CALLS}")
_READY: Final = "processes are ready"
_PATIENCE: Final = 60.0


class Stack:
    """`chappe run` under strace, in a folder of its own."""

    def __init__(self, folder: Path, plant: str | None) -> None:
        self.folder = folder
        (folder / "shop.py").write_text(_APPLICATION)
        (folder / "chappe.toml").write_text("[pools.shop]\nprocesses = 1\n")
        self.trace = folder / "trace"
        kept = {name: value for name, value in os.environ.items() if not name.startswith("CHAPPE_") and name != "PORT"}
        environment = {**kept, **planted.environment(plant), "CHAPPE_APP": "shop:app", "CHAPPE_PORT": "0"}
        with (folder / "stderr").open("wb") as errors:
            command = [*_STRACE, "-o", str(self.trace), sys.executable, "-m", "chappe", "run"]
            self._process = subprocess.Popen(command, cwd=folder, env=environment, stdout=errors, stderr=errors)
        self._wait(lambda: _READY in self._said() and self._ports())
        self.port = self._ports()[-1]

    def _ports(self) -> list[int]:
        return [int(port) for port in re.findall(r"listens on http://127\.0\.0\.1:(\d+)", self._said())]

    def kill_engine(self) -> None:
        """Kill the engine with SIGKILL, and wait for its successor."""
        pid = self._pid("engine")
        os.kill(pid, signal.SIGKILL)
        self._wait(lambda: self._pid("engine") not in (pid, 0))

    def end(self) -> None:
        """End everything in order."""
        os.kill(self._pid("supervisor"), signal.SIGTERM)
        assert self._process.wait(_PATIENCE) == 0, self._said()

    def abandon(self) -> None:
        """Leave nothing running, however it stands."""
        if self._process.poll() is None:
            if pid := self._pid("supervisor"):
                os.kill(pid, signal.SIGKILL)  # its children end with it
            self._process.kill()
            self._process.wait()

    def _pid(self, name: str) -> int:
        try:
            rows = [line.split("\t") for line in (self.folder / f"{_NAME}.processes").read_text().splitlines()]
        except FileNotFoundError:
            return 0
        return next((int(row[1] or 0) for row in rows if row[0] == name), 0)

    def _said(self) -> str:
        return (self.folder / "stderr").read_text()

    def _wait(self, look: Any) -> None:
        deadline = time.monotonic() + _PATIENCE
        while not look():
            assert self._process.poll() is None, self._said()
            assert time.monotonic() < deadline, self._said()
            time.sleep(0.02)


def post(port: int, numbers: list[int], taken: set[str]) -> None:
    """Post orders one after the other, each until it is taken, with a key so that it is taken once."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    for number in numbers:
        body = json.dumps({"n": number, "text": "x" * (number * 37 % 900)})
        headers = {"Content-Type": "application/json", "Idempotency-Key": f"order-{number}"}
        while True:
            try:
                connection.request("POST", "/commands/order", body, headers)
                answer = connection.getresponse()
                found = json.loads(answer.read())
            except (OSError, http.client.HTTPException):
                connection.close()
                time.sleep(0.02)  # the engine is being replaced
                continue
            if answer.status == 202:
                taken.add(found["id"])
                break
            assert answer.status == 503, found
            time.sleep(0.02)  # as Retry-After asks, but sooner
    connection.close()


def record(folder: Path, publishes: int, clients: int, kills: int, plant: str | None) -> set[str]:
    """Have a real host take so many orders while its engine is killed now and then; give the ids that were taken."""
    taken: set[str] = set()
    stack = Stack(folder, plant)
    try:
        for part in range(kills + 1):
            numbers = range(part * publishes // (kills + 1), (part + 1) * publishes // (kills + 1))
            posters = [threading.Thread(target=post, args=(stack.port, list(numbers[n::clients]), taken)) for n in range(clients)]
            for poster in posters:
                poster.start()
            if part < kills:
                until = len(taken) + len(numbers) // 2
                stack._wait(lambda until=until: len(taken) >= until)
                stack.kill_engine()
            for poster in posters:
                poster.join()
        stack.end()
    finally:
        stack.abandon()
    return taken


class Orders:
    """The judge who knows the 202s: each order that was taken is known and in one place, and its event came with its acknowledgement."""

    def __init__(self, events: list[Operation | Taken]) -> None:
        self._taken: list[frozenset[str]] = []
        taken: frozenset[str] = frozenset()
        for event in events:
            self._taken.append(taken)
            if isinstance(event, Taken):
                taken |= {event.identity}
        self._taken.append(taken)

    def highest(self, place: int) -> int:
        return 0

    def judge(self, place: int, found: dict[Fact, Any]) -> None:
        tracked = {name[1]: fact[0] for name, fact in found.items() if name[0] == "tracked"}
        if missing := self._taken[place] - tracked.keys():
            raise Wrong(f"{len(missing)} orders that were taken are not known: {sorted(missing)[:3]}")
        waiting = {name[2] for name in found if name[:2] == ("message", "orders")}
        ended = {identity for identity, state in tracked.items() if state == "done"}
        wrong = {"done and still there": waiting & ended, "gone": tracked.keys() - waiting - ended, "not known": waiting - tracked.keys()}
        if any(wrong.values()):
            raise Wrong("; ".join(f"{what}: {sorted(which)[:3]}" for what, which in wrong.items() if which))
        archived = sum(1 for name in found if name[0] == "archive")
        if archived != len(ended):
            raise Wrong(f"{len(ended)} orders are done, and {archived} events are archived")
        keys = {fact[0] for name, fact in found.items() if name[0] == "idempotency"}
        if keys != tracked.keys():
            raise Wrong(f"keys without their order, or orders without their key: {sorted(keys ^ tracked.keys())[:3]}")


def replay(folder: Path, share: int, shares: int, ways: int, points: int) -> Report:
    """Cut the power at each place of this share of a trace."""
    events = read(folder / "trace", folder, folder / _NAME)
    made = next(n for n, event in enumerate(events) if isinstance(event, Taken))
    at = [n for n, event in enumerate(events) if isinstance(event, OPERATIONS) and n > made]
    some = sorted(Random(0).sample(at, min(points, len(at))))
    scene = Scene(events, Orders(events), folder / f"cut{share}", _NAME, time.time)
    return cut(scene, [*some[share::shares], len(events)], seed=share, ways=ways)


def run(folder: Path, publishes: int, clients: int, kills: int, ways: int, points: int, jobs: int, plant: str | None) -> dict[str, Any]:
    """Do it, and give what there is to know of it."""
    began = time.monotonic()
    taken = record(folder, publishes, clients, kills, plant)
    events = read(folder / "trace", folder, folder / _NAME)
    _refuse_blindness(folder, events, taken)
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        reports = [r.result() for r in [pool.submit(replay, folder, share, jobs, ways, points) for share in range(jobs)]]
    tried = sum((report.ways for report in reports), collections.Counter[str]())
    return {
        "harness": "power-stack", "publishes": publishes, "clients": clients, "kills": kills, "plant": plant, "taken": len(taken),
        "operations": sum(isinstance(event, OPERATIONS) for event in events), "points": sum(report.points for report in reports),
        "recoveries": sum(tried.values()), "ways": dict(tried), "seconds": round(time.monotonic() - began, 1),
        "faults": [str(fault) for report in reports for fault in report.faults],
    }  # fmt: skip


def _refuse_blindness(folder: Path, events: list[Operation | Taken], taken: set[str]) -> None:
    """Raise `AssertionError` unless the trace holds all that the clients heard and all that is on the disk."""
    assert taken <= {event.identity for event in events if isinstance(event, Taken)}
    disk = Disk()
    for event in events:
        if isinstance(event, OPERATIONS):
            disk.do(event)
    for path, data in disk.image(disk.pending).items():
        assert (folder / path).read_bytes() == data, f"{path} was changed unseen"


def main() -> int:
    """Run, and end with 1 if a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.power.stack")
    defaults = {"publishes": 300, "clients": 4, "kills": 2, "ways": 4, "points": 1_000_000, "jobs": min(2, os.cpu_count() or 1)}
    for name, default in defaults.items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"default: {default}")
    parser.add_argument("--plant", choices=planted.of("power"), help="plant a fault into all processes first")
    if shutil.which("strace") is None:
        sys.exit("strace is missing: apt-get install strace")
    folder = Path(tempfile.mkdtemp(prefix="chappe-power-stack-", dir=MEMORY))
    try:
        evidence = run(folder, **vars(parser.parse_args()))
    finally:
        shutil.rmtree(folder)
    keep_evidence("power-stack", evidence)
    print(json.dumps(evidence))
    return int(bool(evidence["faults"]))


if __name__ == "__main__":
    sys.exit(main())
