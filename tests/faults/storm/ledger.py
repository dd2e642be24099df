"""Decides what was lost, duplicated, stuck, phantom or reordered under a storm: pure, from what was observed.

The words are Jepsen's. A *name* is what a publisher wanted done; an *id* is a message, the same in all its attempts.
"""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from chappe.worker.prefetch import MOST
from tests.faults.storm.journal import Line, Process

_SHOWN = 10
ZOMBIE = 2.0  # seconds after a freeze in which a process may still act on what it held before
MASK, STEP, TICK = "mask", "step", "tick"


class Strike(NamedTuple):
    """What the killer did: to a process that is `gone` from then on, or frozen until `until`."""

    at: float
    role: str
    pid: int
    until: float = math.inf

    @property
    def is_kill(self) -> bool:
        """Whether the process ended."""
        return self.until == math.inf


@dataclasses.dataclass
class History:
    """Everything that was observed."""

    sent: Sequence[Line]
    runs: Sequence[Line]
    strikes: Sequence[Strike]
    effects: Iterable[tuple[str, str]]
    dead: Collection[str] = ()
    waiting: int = 0
    slots: tuple[int, int] | None = None
    concurrency: int = 1


@dataclasses.dataclass
class Verdict:
    """What was wrong, with examples, and figures."""

    faults: dict[str, list[str]]
    figures: dict[str, Any]

    @property
    def is_good(self) -> bool:
        """Whether every promise was kept."""
        return not any(self.faults.values())

    def __str__(self) -> str:
        found = {fault: (len(names), names[:_SHOWN]) for fault, names in self.faults.items() if names}
        return f"{found or 'no faults'}; {self.figures}"


@dataclasses.dataclass
class _Run:
    """One attempt at a message in one process."""

    at: float
    process: Process
    id: str
    kind: str
    key: str
    names: list[str]
    ended: float | None = None
    raised: bool = False


def judge(history: History) -> Verdict:
    """Return the verdict on a history."""
    told = _told(history.sent)
    runs = _runs(history.runs)
    fates = _Fates(history.strikes, [run.process for run in runs])
    ids: dict[str, list[str]] = collections.defaultdict(list)
    for name, identity in history.effects:
        ids[name].append(identity)
    faults = {
        **_of_publications(told, ids, set(history.dead)),
        **_of_runs(runs, fates, history),
        "ran too early": _of_masks(told, runs),
        "lost in the clock": _of_slots(ids, history.slots),
        "stuck": [f"{history.waiting} messages are still waiting"] if history.waiting else [],
        "damaged": [line.more for line in history.runs if line.word == "damaged"],
    }
    return Verdict(faults, _figures(told, runs, fates, ids, history))


# --- what publishers were told


@dataclasses.dataclass
class _Told:
    attempted: dict[str, float]
    confirmed: dict[str, str]
    unknown: set[str]
    refused: set[str]
    odd: list[str]


def _told(sent: Iterable[Line]) -> _Told:
    told = _Told({}, {}, set(), set(), [])
    for line in sent:
        if line.word == "attempt":
            told.attempted[line.name] = min(line.at, told.attempted.get(line.name, math.inf))
        elif line.word == "confirmed":
            told.confirmed[line.name] = line.more
        elif line.word == "unknown":
            told.unknown.add(line.name)
        elif line.word == "refused":
            told.refused.add(line.name)
        else:
            told.odd.append(f"{line.name}: {line.more}")
    told.unknown |= told.attempted.keys() - told.confirmed.keys() - told.refused
    return told


def wanted(name: str) -> list[str]:
    """Return the effects that a message of a name must have."""
    if name.startswith("pair."):
        return [f"{name}/first", f"{name}/second"]
    return [name, f"{name}/echo"] if name.endswith("+e") else [name]


def _of_publications(told: _Told, ids: dict[str, list[str]], dead: set[str]) -> dict[str, list[str]]:
    lost, phantom, torn, misnamed = [], [], [], []
    for name, identity in told.confirmed.items():
        found = [effect for effect in wanted(name) if effect in ids]
        if name in dead or f"{name}/echo" in dead:
            continue
        if not found:
            (phantom if ".http" in name else lost).append(name)
        elif len(found) < len(wanted(name)):
            torn.append(name)
        elif identity and identity not in ids[found[0]]:
            misnamed.append(name)
    done = [(name, name.partition("/")[0], found) for name, found in ids.items()]
    return {
        "lost": lost,
        "phantom": phantom,
        "half done": torn + [n for n in told.unknown if n not in dead and 0 < sum(e in ids for e in wanted(n)) < len(wanted(n))],
        "misnamed": misnamed,
        "duplicated": [name for name, _, found in done if len(found) > 1],
        "refused but done": [name for name, origin, _ in done if origin in told.refused],
        "unexpected": [name for name, origin, _ in done if origin != TICK and origin not in told.attempted],
        "undecided": [name for name in told.unknown if name in told.attempted and _is_keyed(name)],
    }


def _is_keyed(name: str) -> bool:
    """Tell whether a publisher had to repeat a message until it was confirmed: its name has no process id."""
    return not name.split(".")[1].startswith("batches")


def _of_slots(ids: dict[str, list[str]], slots: tuple[int, int] | None) -> list[str]:
    if slots is None:
        return []
    ticks = sum(len(found) for name, found in ids.items() if name.startswith(f"{TICK}/"))
    due = slots[1] - slots[0] + 1
    return [] if ticks == due else [f"{ticks} ticks for {due} slots"]


# --- what workers did


def _runs(lines: Iterable[Line]) -> list[_Run]:
    """Put starts and ends together, in the order of time."""
    runs: list[_Run] = []
    open_runs: dict[tuple[Process, str], _Run] = {}
    for line in sorted(lines):
        place = (line.process, line.name)
        if line.word == "start" or (line.word == "second" and place not in open_runs):
            if line.word == "second":
                run = _Run(line.at, line.process, line.name, "pair", "", [line.more])
            else:
                kind, key, _, names = line.more.split(" ", 3)
                run = _Run(line.at, line.process, line.name, kind, key, names.split(","))
            runs.append(run)
            open_runs[place] = run
        elif line.word in ("end", "raise") and place in open_runs:
            run = open_runs.pop(place)
            run.ended, run.raised = line.at, line.word == "raise"
    return runs


class _Fates:
    """What became of the processes that ran messages."""

    def __init__(self, strikes: Sequence[Strike], processes: Iterable[Process]) -> None:
        births: dict[int, list[Process]] = collections.defaultdict(list)
        for process in sorted(set(processes)):
            births[process.pid].append(process)
        self.killed: dict[Process, float] = {}
        self._frozen: dict[Process, list[Strike]] = collections.defaultdict(list)
        for strike in strikes:
            living = [process for process in births[strike.pid] if process.born <= strike.at]
            if living and strike.is_kill:
                self.killed[living[-1]] = strike.at
            elif living:
                self._frozen[living[-1]].append(strike)

    def may_act_late(self, process: Process, at: float) -> bool:
        """Tell whether a process was frozen shortly before: what it held may be somebody else's by now."""
        return any(s.at <= at <= s.until + ZOMBIE for s in self._frozen[process])

    def explains(self, run: _Run, again: float) -> bool:
        """Tell whether a message may be started again although this run of it did not fail."""
        return self.killed.get(run.process, math.inf) <= again or any(
            s.at <= again and s.until + ZOMBIE >= run.at for s in self._frozen[run.process]
        )


def _of_runs(runs: list[_Run], fates: _Fates, history: History) -> dict[str, list[str]]:
    slots = history.concurrency
    unended = collections.Counter(run.process.pid for run in runs if run.ended is None and run.process in fates.killed)
    returned: collections.Counter[int] = collections.Counter()
    unexplained: list[str] = []
    for before, run in _doubles(runs):
        returned[before.process.pid] += 1
        if not fates.explains(before, run.at) and not fates.may_act_late(run.process, run.at):
            unexplained.append(f"{run.names[0]} at {before.at:.3f} in {before.process.pid}, at {run.at:.3f} in {run.process.pid}")
    doubles = sum(returned.values())
    strikes = sum(1 for s in history.strikes if s.role == "worker")
    return {
        **_of_keys(runs, fates),
        "started again for nothing": unexplained,
        "more open than slots": [f"{count} in {pid}" for pid, count in unended.items() if count > slots],
        "more again than prefetch": [f"{count} of {pid}" for pid, count in returned.items() if count > slots + MOST],
        "more doubles than slots": [f"{doubles} double starts after {strikes} strikes"] if doubles > strikes * slots else [],
    }


def _doubles(runs: Iterable[_Run]) -> Iterator[tuple[_Run, _Run]]:
    """Return each run of a message that was started before and did not fail, with the run before."""
    latest: dict[str, _Run] = {}
    for run in runs:
        before = latest.get(run.id)
        if before is not None and not before.raised:
            yield before, run
        latest[run.id] = run


def _of_keys(runs: list[_Run], fates: _Fates) -> dict[str, list[str]]:
    """Find steps out of their order, and two runs of one key at a time."""
    reordered: list[str] = []
    overlapping: list[str] = []
    last_step: dict[str, int] = {}
    running: dict[str, _Run] = {}
    for run in runs:
        if not run.key or fates.may_act_late(run.process, run.at):
            continue
        if run.kind == STEP:
            number = int(run.names[0].partition("+")[0].rsplit(".", 1)[1])
            if number < last_step.get(run.key, -1):
                reordered.append(f"{run.names[0]} after {last_step[run.key]}")
            last_step[run.key] = number
        before = running.get(run.key)
        overlaps = before is not None and before.id != run.id and (before.ended is None or before.ended > run.at)
        if before is not None and overlaps and not fates.explains(before, run.at):
            overlapping.append(f"{run.names[0]} and {before.names[0]} of {run.key} at {run.at:.3f}")
        running[run.key] = run
    return {"reordered": reordered, "overlapping": overlapping}


def _of_masks(told: _Told, runs: Iterable[_Run]) -> list[str]:
    """Find fields of masks whose latest run started before they were sent (M1)."""
    latest = {name: run.at for run in runs if run.kind == MASK for name in run.names}
    return [name for name, at in latest.items() if at < told.attempted.get(name, 0.0)]


# --- figures


def percentile(values: Sequence[float], part: float) -> float | None:
    """Return the value below which a part of them is."""
    ordered = sorted(values)
    return round(ordered[min(len(ordered) - 1, int(len(ordered) * part))], 3) if ordered else None


def _recoveries(runs: Iterable[_Run], fates: _Fates) -> list[float]:
    """Return for each message that a killed worker was running the seconds until it started elsewhere."""
    return [
        max(0.0, run.at - fates.killed[before.process])
        for before, run in _doubles(runs)
        if before.ended is None and before.process in fates.killed
    ]


def _figures(told: _Told, runs: list[_Run], fates: _Fates, ids: dict[str, list[str]], history: History) -> dict[str, Any]:
    took = _recoveries(runs, fates)
    returned = collections.Counter(before.process for before, _ in _doubles(runs))
    return {
        "attempted": len(told.attempted),
        "confirmed": len(told.confirmed),
        "masks": sum(1 for name in told.confirmed if name.startswith(MASK)),
        "by_http": sum(1 for name in told.confirmed if ".http" in name),
        "unknown": len(told.unknown),
        "recovered": sum(1 for name in told.unknown if name in ids),
        "refused": len(told.refused),
        "odd_answers": len(told.odd),
        "dead": sorted(history.dead),
        "runs": len(runs),
        "failed_runs": sum(1 for run in runs if run.raised),
        "messages": len({run.id for run in runs}),
        "double_starts": sum(returned.values()),
        "double_starts_after_one_strike": max(returned.values(), default=0),
        "kills": dict(collections.Counter(s.role for s in history.strikes if s.is_kill)),
        "freezes": dict(collections.Counter(s.role for s in history.strikes if not s.is_kill)),
        "recovery": {"count": len(took), "p50": percentile(took, 0.5), "p99": percentile(took, 0.99), "most": max(took, default=None)},
    }
