"""One storm from its first message to its verdict."""

from __future__ import annotations

import dataclasses
import math
import random
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.faults.evidence import EVIDENCE, keep_evidence
from tests.faults.storm import killer
from tests.faults.storm.host import Host
from tests.faults.storm.journal import Line, Reader
from tests.faults.storm.killer import Killer
from tests.faults.storm.ledger import TICK, History, Strike, Verdict, judge

_TICK = 0.02
_READY = 60.0


@dataclasses.dataclass(frozen=True)
class Options:
    """How large a storm is."""

    messages: int = 50_000
    kills: int = 200
    every: float = 0.2
    seed: int = dataclasses.field(default_factory=lambda: random.SystemRandom().randrange(2**32))
    rate: float = 1000.0
    workers: int = 6
    concurrency: int = 16
    pace: float = 0.01
    patience: float = 600.0
    drain: float = 120.0
    plant: str | None = None
    freezes: float = killer.FREEZES
    ends: float = killer.ENDS
    mix: Mapping[str, float] = dataclasses.field(default_factory=lambda: dict(killer.MIX))


class Storm:
    """A storm in a folder of its own."""

    def __init__(self, options: Options, folder: Path) -> None:
        self.options = options
        self.folder = folder
        self.host = Host(
            folder, workers=options.workers, concurrency=options.concurrency, rate=options.rate, pace=options.pace, plant=options.plant
        )
        self.killer = Killer(killer.schedule(options.seed, options.mix, options.freezes, options.ends), self.host.find, self.host.is_ours)
        self._sent_reader = Reader(folder / "sent")
        self._sent: list[Line] = []
        self._confirmed = 0
        self.seconds: dict[str, float] = {}

    def run(self) -> Verdict:
        """Start, storm, quieten, drain, judge; leaves nothing running."""
        try:
            self._start()
            self._rage()
            waiting = self._quieten()
            return self._judge(waiting)
        finally:
            self.killer.thaw(everybody=True)
            self.host.close()

    def _start(self) -> None:
        started = time.monotonic()
        self.host.start_chappe()
        _until(lambda: " ready" in (self.folder / "stderr").read_text(), _READY, "chappe run to be ready")
        for name in self.host.publishers:
            self.host.start_publisher(name)
        ticks = Reader(self.folder / "runs")
        _until(lambda: any(f"{TICK}/" in line.more for line in ticks.read()), _READY, "the first tick")
        self.seconds["start"] = time.monotonic() - started

    def _rage(self) -> None:
        """Strike at each interval until both goals are reached."""
        options, started = self.options, time.monotonic()
        strike_at = started
        while self._confirmed < options.messages or self.killer.kills < options.kills:
            now = time.monotonic()
            if now - started > options.patience:
                raise AssertionError(
                    f"{self._confirmed} messages and {self.killer.kills} kills after {options.patience:g} s; {self.errors()}"
                )
            self.killer.thaw()
            self.host.tend()
            if now >= strike_at:
                strike_at = max(strike_at + options.every, now)
                self.killer.strike()
                self._read_sent()
            time.sleep(_TICK)
        self.seconds["rage"] = time.monotonic() - started

    def _read_sent(self) -> None:
        for line in self._sent_reader.read():
            self._sent.append(line)
            self._confirmed += line.word == "confirmed"

    def _quieten(self) -> Mapping[str, int]:
        """Let everything go on, and give what still waits when nothing changes any more or patience is over."""
        started = time.monotonic()
        self.killer.thaw(everybody=True)
        (self.folder / "quiet").touch()
        deadline = started + self.options.drain
        waiting: Mapping[str, int] | None = None
        ended = False
        while time.monotonic() < deadline and not (ended and waiting is not None and not any(waiting.values())):
            self.host.tend_chappe()
            ended = ended or self.host.publishers_ended()
            if ended:
                waiting = {name: count for name, count in (self.host.waiting() or {"?": 1}).items() if name != "ticks"}
            time.sleep(0.2)
        if not ended:
            self.host.wrong_ends.append("publishers did not end")
        self.seconds["drain"] = time.monotonic() - started
        return waiting or {"?": 1}

    def _judge(self, waiting: Mapping[str, int]) -> Verdict:
        started = time.monotonic()
        if (code := self.host.end()) != 0:
            self.host.wrong_ends.append(f"chappe run ended with {code} when it was asked to end")
        self._read_sent()
        letters = self.host.letters()
        runs = list(Reader(self.folder / "runs").read())
        first = min(float(line.more.rsplit("/", 1)[1]) for line in runs if f"{TICK}/" in line.more)
        left = (self.host.waiting(may_own_file=True) or {}).get("ticks", 0)
        verdict = judge(
            History(
                self._sent,
                runs,
                self.killer.strikes,
                self.host.effects(),
                dead=[name for reason, names in letters if reason == "worker_lost" for name in names],
                waiting=sum(waiting.values()),
                slots=(math.floor(first), self.host.last_slot() - left),
                concurrency=self.options.concurrency,
            )
        )
        verdict.faults["wrong ends"] = self.host.wrong_ends
        verdict.faults["dead for another reason"] = [f"{reason}: {names}" for reason, names in letters if reason != "worker_lost"]
        self.seconds["judge"] = time.monotonic() - started
        return verdict

    def errors(self) -> str:
        """Return the end of what all processes said."""
        return (self.folder / "stderr").read_text()[-4000:]

    def evidence(self, verdict: Verdict) -> dict[str, Any]:
        """Return what is kept of a run."""
        return {
            "options": dataclasses.asdict(self.options),
            "good": verdict.is_good,
            "faults": {fault: [len(names), *names[:10]] for fault, names in verdict.faults.items() if names},
            "figures": verdict.figures,
            "seconds": {name: round(value, 1) for name, value in self.seconds.items()},
            "chappe_starts": self.host.starts,
            "missed": self.killer.missed,
            "schedule": [_shown(strike, self.killer.strikes[0].at) for strike in self.killer.strikes],
        }


def _shown(strike: Strike, begin: float) -> list[Any]:
    return [round(strike.at - begin, 2), strike.role, strike.pid, 0 if strike.is_kill else round(strike.until - strike.at, 2)]


def storm(options: Options, *, keep: Path | None = None) -> tuple[Verdict, dict[str, Any]]:
    """Run a storm in a temporary folder; one that found something is left there to be looked at if `keep` says where."""
    folder = Path(tempfile.mkdtemp(prefix="chappe-storm-"))
    try:
        run = Storm(options, folder)
        verdict = run.run()
        evidence = run.evidence(verdict)
        keep_evidence(f"storm-{options.seed}", evidence)
        if not verdict.is_good and options.plant is None:
            shutil.copy(folder / "stderr", EVIDENCE / f"storm-{options.seed}.stderr")
        if keep is not None:
            shutil.copytree(folder, keep, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.sock"))
        return verdict, evidence
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _until(look: Any, seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not look():
        assert time.monotonic() < deadline, f"waited {seconds:g} s in vain: {what}"
        time.sleep(0.05)
