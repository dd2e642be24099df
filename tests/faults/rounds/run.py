"""Rounds of faults under a stream of messages, from the first message to the verdict."""

from __future__ import annotations

import bisect
import collections
import contextlib
import dataclasses
import datetime as dt
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psycopg

from tests.faults.evidence import keep_evidence
from tests.faults.rounds import faults
from tests.servers.cluster import RabbitCluster
from tests.servers.postgres import PostgresNode
from tests.servers.rabbitmq import RabbitNode
from tests.waiting import until

DEADLINE = 5.0
HANG = DEADLINE + 1.5  # seconds after which a call hangs: its deadline, and what two busy cores may add
AGAIN = 5.0  # seconds after the end of a fault in which every process must do again what it did
STALL = 5.0
_WRITTEN = 3.0  # a queue that was made a second ago is lost with its node (docs/decisions/009): a cluster needs this time for three
_QUIET = 2.0  # seconds between two faults
_READY = 60.0
_STILL = 12.0  # seconds without a word from anybody, after which nothing more is waited for
_LOOK = 0.05
_NAMES = {"steps": 40.0, "batches": 10.0, "stumbles": 10.0, "masks": 30.0}  # what is sent, and how often a second
_CAUSE = re.compile(r"RabbitMQ|postgresql|PostgreSQL|connection|store", re.IGNORECASE)
_ENDS = ("confirmed", "unknown", "refused")
_ROOT = Path(__file__).parents[3]


class Line(NamedTuple):
    """One line of a journal."""

    at: float
    word: str
    name: str
    process: int


@dataclasses.dataclass(frozen=True)
class Round:
    """One fault, and how long after its end everybody did again what they did."""

    fault: str
    began: float
    ended: float
    handled: float = 0.0
    confirmed: float = 0.0


@dataclasses.dataclass(frozen=True)
class Options:
    """How many rounds, and by which seed."""

    rounds: int = 9
    on_cluster: int = 3
    seed: int = dataclasses.field(default_factory=lambda: random.SystemRandom().randrange(2**32))
    only: Sequence[str] = ()
    plant: str | None = None
    quiet: float = _QUIET


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What was found wrong, by kind, and the figures."""

    faults: Mapping[str, Sequence[str]]
    figures: Mapping[str, Any]

    @property
    def is_good(self) -> bool:
        """Tell whether every promise was kept."""
        return not any(self.faults.values())

    def __str__(self) -> str:
        wrong = {kind: [len(found), *found[:5]] for kind, found in self.faults.items() if found}
        return json.dumps({"wrong": wrong, **self.figures}, indent=1)


class Rounds:
    """`chappe run` and four publishers beside servers to which things happen."""

    def __init__(self, options: Options, servers: Any, does: Mapping[str, Callable[..., None]], folder: Path) -> None:
        self.options = options
        self._servers = servers
        self._does = does
        self._folder = folder
        self._chance = random.Random(options.seed)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.rounds: list[Round] = []
        (folder / "runs").mkdir(parents=True)
        (folder / "chappe.toml").write_text("[pools.rounds]\nprocesses = 2\nconcurrency = 20\n")
        self._environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("CHAPPE_") and k not in ("PORT", "LOG_LEVEL")},
            **servers.urls,
            "CHAPPE_ALLOW_PLAIN_AMQP": "true",  # in namespaces of our own
            "CHAPPE_APP": "tests.faults.rounds.application:app",
            "CHAPPE_DEADLINE": str(DEADLINE),
            "CHAPPE_LOG_FORMAT": "json",
            "CHAPPE_STATE_DIR": str(folder / "state"),
            "ROUNDS_FOLDER": str(folder),
            "PYTHONPATH": f"{_ROOT}:{_ROOT / 'src'}",
            **({"ROUNDS_PLANT": options.plant} if options.plant else {}),
        }

    def run(self, schedule: Sequence[str]) -> Verdict:
        """Start, strike, drain, judge; leaves nothing running."""
        try:
            self._start("chappe", "chappe", "run", "--no-gateway", "--no-scheduler")
            self._servers.host = self._processes["chappe"].pid
            for kind, rate in _NAMES.items():
                self._start(kind, "tests.faults.rounds.publisher", kind, str(rate))
            try:
                until(lambda: self._are_at_work(0.0), "everybody to be at work", _READY)
            except AssertionError:
                print(self._errors(), file=sys.stderr)
                raise
            if "amqp" in self._environment["CHAPPE_BROKER"]:
                time.sleep(_WRITTEN)
            for fault in schedule:
                self._round(fault)
                self._servers.mend()
                time.sleep(self.options.quiet)  # the next fault meets a host at work
            return self._judge(self._drain())
        finally:
            for process in self._processes.values():
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                process.wait()

    def _start(self, name: str, *command: str) -> None:
        with (self._folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [sys.executable, "-m", *command], cwd=self._folder, env=self._environment, stdout=log, stderr=log
            )

    def _round(self, fault: str) -> None:
        began = time.time()
        self._does[fault](self._servers, self._chance)
        ended = time.time()
        done = Round(fault, began, ended)
        deadline = time.monotonic() + 4 * AGAIN  # later than is allowed, to know how late it was
        while time.monotonic() < deadline and not self._are_at_work(ended):
            time.sleep(_LOOK)
        handled, confirmed = self._since(ended)
        self.rounds.append(dataclasses.replace(done, handled=handled, confirmed=confirmed))
        print(
            f"{fault}: lasted {ended - began:.1f} s, handled again after {handled:.2f} s, confirmed again after {confirmed:.2f} s",
            file=sys.stderr,
        )

    # --- looking

    def _are_at_work(self, since: float) -> bool:
        """Tell whether each worker has begun something that was sent since then, and each publisher had something confirmed."""
        workers, publishers = self._firsts(since)
        return len(workers) == 2 and len(publishers) == len(_NAMES)

    def _firsts(self, since: float) -> tuple[dict[int, float], dict[int, float]]:
        """Return for each worker when it first began something after a time, and for each publisher when something was first confirmed."""
        workers: dict[int, float] = {}
        publishers: dict[int, float] = {}
        alive = {process.pid for process in self._processes.values()}
        for line in self._tail(since):
            if line.word == "start":
                workers.setdefault(line.process, line.at)
            elif line.word == "confirmed" and line.process in alive:
                publishers.setdefault(line.process, line.at)
        return workers, publishers

    def _since(self, ended: float) -> tuple[float, float]:
        workers, publishers = self._firsts(ended)
        never = 4 * AGAIN
        handled = max(workers.values(), default=ended + never) - ended if len(workers) == 2 else never
        confirmed = max(publishers.values(), default=ended + never) - ended if len(publishers) == len(_NAMES) else never
        return handled, confirmed

    def _tail(self, since: float) -> Iterator[Line]:
        """Return what was written since a time, of each process in its order."""
        for path in (self._folder / "runs").iterdir():
            lines = path.read_text().splitlines(keepends=True)
            if lines and not lines[-1].endswith("\n"):
                lines.pop()  # it is being written
            for text in lines[bisect.bisect_left(lines, f"{since:.6f}") :]:
                at, word, name = text.rstrip("\n").split(" ", 2)
                yield Line(float(at), word, name, int(path.name))

    # --- the end

    def _drain(self) -> list[Line]:
        """Let the publishers end, wait until everything was handled that must be, and give all that was written."""
        (self._folder / "quiet").touch()
        for name in _NAMES:
            try:
                self._processes[name].wait(4 * DEADLINE)
            except subprocess.TimeoutExpired:
                self._processes[name].kill()

        def nothing_is_missing() -> bool:
            lines = list(self._tail(0.0))
            return not _confirmed(lines) - _done(lines)

        seen, changed = 0, time.monotonic()
        while not nothing_is_missing() and time.monotonic() - changed < _STILL:
            if (written := sum(path.stat().st_size for path in (self._folder / "runs").iterdir())) != seen:
                seen, changed = written, time.monotonic()
            time.sleep(_LOOK)
        self._processes["chappe"].send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._processes["chappe"].wait(30)
        return sorted(self._tail(0.0))

    def _judge(self, lines: list[Line]) -> Verdict:
        confirmed, done = _confirmed(lines), _done(lines)
        attempted = {line.name for line in lines if line.word == "attempt"}
        words = collections.Counter(line.word for line in lines)
        took = sorted(_took(lines))
        wrong = {
            "lost": sorted(confirmed - done),
            "unexpected": sorted(done - attempted),
            "hanging": [f"{name} took {seconds:.1f} s" for seconds, name in took if seconds > HANG]
            + [f"{name} never ended" for name in sorted(attempted - {line.name for line in lines if line.word in _ENDS})[:20]],
            "late": [
                f"{r.fault}: handled after {r.handled:.1f} s, confirmed after {r.confirmed:.1f} s"
                for r in self.rounds
                if max(r.handled, r.confirmed) > AGAIN
            ],
            "stalls without a cause": self._unexplained(lines),
            "ended wrongly": [f"{name}: {p.returncode}" for name, p in self._processes.items() if p.returncode != 0],
        }
        starts = collections.Counter(line.name for line in lines if line.word == "start" and not line.name.startswith("stumbles"))
        figures = {
            "rounds": len(self.rounds),
            "confirmed": len(confirmed),
            "unknown": words["unknown"],
            "refused": words["refused"],
            "of unknown done": len({line.name for line in lines if line.word == "unknown"} & done),
            "started twice": sum(1 for count in starts.values() if count > 1),
            "longest call": round(took[-1][0], 2) if took else None,
            "handled again, most": round(max(r.handled for r in self.rounds), 2),
            "confirmed again, most": round(max(r.confirmed for r in self.rounds), 2),
            "by fault": self._by_fault(),
        }
        return Verdict(wrong, figures)

    def _by_fault(self) -> dict[str, list[Any]]:
        found: dict[str, list[Round]] = collections.defaultdict(list)
        for one in self.rounds:
            found[one.fault].append(one)
        return {
            fault: [len(rs), round(max(r.handled for r in rs), 2), round(max(r.confirmed for r in rs), 2)] for fault, rs in found.items()
        }

    def _unexplained(self, lines: Sequence[Line]) -> list[str]:
        """Find messages that waited too long to be begun, while nothing was said of why."""
        logs = self._folder.glob("*.log")  # a publisher knows of tickets that it cannot send
        said = [record.at for log in logs for record in _records(log) if _CAUSE.search(record.event)]
        begun: dict[str, float] = {}
        for line in lines:
            if line.word == "start":
                begun.setdefault(line.name, line.at)

        def since(at: float) -> float:
            """Return when the fault began that lasts at a time, or was only just over."""
            return min([at, *(r.began for r in self.rounds if r.began <= at <= r.ended + AGAIN)])

        return [
            f"{line.name} for {begun[line.name] - line.at:.1f} s until {begun[line.name]:.1f}"
            for line in lines
            if line.word == "confirmed"
            and begun.get(line.name, 0.0) - line.at > STALL
            and not any(since(line.at) <= at <= begun[line.name] for at in said)
        ]

    def _errors(self) -> str:
        return "".join(path.read_text()[-2000:] for path in self._folder.glob("*.log"))


def _confirmed(lines: Sequence[Line]) -> set[str]:
    return {line.name for line in lines if line.word == "confirmed"}


def _done(lines: Sequence[Line]) -> set[str]:
    return {line.name for line in lines if line.word == "done"}


def _took(lines: Sequence[Line]) -> Iterator[tuple[float, str]]:
    begun: dict[str, float] = {}
    for line in lines:
        if line.word == "attempt":
            begun[line.name] = line.at
        elif line.word in _ENDS and line.name in begun:
            yield line.at - begun[line.name], line.name


class _Record(NamedTuple):
    """A line of the log of `chappe run`."""

    at: float
    event: str


def _records(path: Path) -> Iterator[_Record]:
    for text in path.read_text().splitlines():
        with contextlib.suppress(ValueError, TypeError, KeyError):  # what others print there is none of ours
            record = json.loads(text)
            yield _Record(dt.datetime.fromisoformat(record["timestamp"]).timestamp(), record["event"])


def rounds(options: Options, *, keep: Path | None = None) -> tuple[Verdict, dict[str, Any]]:
    """Run rounds on servers of their own, in a temporary folder: on one node first, then on a cluster."""
    folder = Path(tempfile.mkdtemp(prefix="chappe-rounds-"))
    verdicts: dict[str, Verdict] = {}
    done: list[Round] = []
    try:
        with PostgresNode(folder / "postgres") as postgres:
            on_one = [f for f in options.only if f in faults.FAULTS] or faults.schedule(options.seed, options.rounds, faults.FAULTS)
            on_three = [f for f in options.only if f in faults.CLUSTER_FAULTS]
            on_three = on_three or faults.schedule(options.seed, options.on_cluster, faults.CLUSTER_FAULTS)
            if on_one and (not options.only or on_one[0] in options.only):
                with RabbitNode(folder / "rabbitmq") as rabbit, contextlib.closing(faults.Servers(rabbit, postgres)) as servers:
                    run = Rounds(options, servers, faults.FAULTS, folder / "one")
                    verdicts["one node"] = run.run(on_one)
                    print(verdicts["one node"], file=sys.stderr)
                    done += run.rounds
            if on_three and (not options.only or on_three[0] in options.only):
                with RabbitCluster(folder / "cluster") as cluster, contextlib.closing(faults.Cluster(cluster, postgres)) as servers:
                    with psycopg.connect(postgres.url, autocommit=True) as connection:
                        connection.execute("drop schema if exists chappe cascade")
                    run = Rounds(options, servers, faults.CLUSTER_FAULTS, folder / "three")
                    verdicts["three nodes"] = run.run(on_three)
                    done += run.rounds
        return _told(options, verdicts, done)
    finally:
        _leave(folder, keep)


def rounds_alone(options: Options, *, keep: Path | None = None) -> tuple[Verdict, dict[str, Any]]:
    """Run rounds on a PostgreSQL by itself, in a temporary folder."""
    folder = Path(tempfile.mkdtemp(prefix="chappe-rounds-"))
    try:
        with (
            PostgresNode(folder / "postgres") as postgres,
            contextlib.closing(faults.Alone(postgres, folder / "alone")) as servers,
        ):
            run = Rounds(options, servers, faults.ALONE_FAULTS, folder / "alone")
            verdict = run.run(list(options.only) or faults.schedule(options.seed, options.rounds, faults.ALONE_FAULTS))
        return _told(options, {"postgresql alone": verdict}, run.rounds)
    finally:
        _leave(folder, keep)


def _told(options: Options, verdicts: Mapping[str, Verdict], done: Sequence[Round]) -> tuple[Verdict, dict[str, Any]]:
    """Return what was found wherever it was looked for, and keep it as evidence."""
    verdict = Verdict(
        {f"{kind}, {where}": found for where, one in verdicts.items() for kind, found in one.faults.items()},
        {where: one.figures for where, one in verdicts.items()},
    )
    evidence = {
        "options": dataclasses.asdict(options),
        "good": verdict.is_good,
        "wrong": {kind: [len(found), *found[:10]] for kind, found in verdict.faults.items() if found},
        "figures": verdict.figures,
        "rounds": [dataclasses.asdict(one) for one in done],
    }
    keep_evidence(f"rounds-{options.seed}", evidence)
    return verdict, evidence


def _leave(folder: Path, keep: Path | None) -> None:
    if keep is not None:
        shutil.copytree(folder, keep, dirs_exist_ok=True, ignore=shutil.ignore_patterns("rabbitmq", "postgres", "cluster"))
    shutil.rmtree(folder, ignore_errors=True)
