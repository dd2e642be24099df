"""A run of power cuts of the size that is asked for, over several workloads, each with a seed of its own."""

from __future__ import annotations

import collections
import multiprocessing
import os
import shutil
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from random import Random
from typing import Any, Final, NamedTuple

import apsw

from ..evidence import EVIDENCE
from . import workload
from .cuts import OPERATIONS, Fault, Model, Report, Scene, cut, places
from .disk import Sync, Write
from .promises import Wrong
from .tape import Tape

MEMORY: Final = Path("/dev/shm") if Path("/dev/shm").is_dir() else None
_AGAIN: Final = 20  # at one place of so many, the power goes again during the recovery


class Options(NamedTuple):
    """How much is tried."""

    points: int = 10_000
    seed: int = 1
    tapes: int = 10
    rounds: int = 240  # of each workload; 120 have each kind of end and start
    jobs: int = min(2, os.cpu_count() or 1)
    ways: int = 100  # states of the disk that are tried at each place, at most


class Done(NamedTuple):
    """What came of one tape."""

    seed: int
    events: int
    asked: int
    commits: int
    checkpoints: int
    report: Report


def run(options: Options) -> dict[str, Any]:
    """Do it, and give what there is to know of it."""
    began = time.monotonic()
    seeds = range(options.seed, options.seed + options.tapes)
    shares = [options.points // options.tapes + (n < options.points % options.tapes) for n in range(options.tapes)]
    with ProcessPoolExecutor(options.jobs, multiprocessing.get_context("spawn")) as pool:
        doing = [
            pool.submit(tape_of, seed, share, options.rounds, ways=options.ways, keep=EVIDENCE / f"power-{seed}")
            for seed, share in zip(seeds, shares, strict=True)
        ]
        done = [tape.result() for tape in doing]
    seconds = time.monotonic() - began
    ways = sum((d.report.ways for d in done), collections.Counter[str]())
    return {
        "harness": "power", "sqlite": apsw.sqlite_lib_version(), **options._asdict(),
        "points": sum(d.report.points for d in done), "recoveries": sum(ways.values()), "ways": dict(ways),
        "requests": sum(d.asked for d in done), "commits": sum(d.commits for d in done), "checkpoints": sum(d.checkpoints for d in done),
        "seconds": round(seconds, 1), "recoveries_per_second": round(sum(ways.values()) / seconds, 1),
        "faults": [f"seed {d.seed}, {fault}" for d in done for fault in d.report.faults],
    }  # fmt: skip


def tape_of(seed: int, points: int, rounds: int, *, ways: int = 100, most: int = 20, keep: Path | None = None) -> Done:
    """Record one workload, and cut the power at so many of its places, or until so many promises are broken."""
    root = Path(tempfile.mkdtemp(prefix="chappe-power-", dir=MEMORY))
    try:
        tape = workload.work(root, rounds=rounds, seed=seed)
        try:
            scene = Scene(tape.events, Model(tape), root / "cut", workload.NAME, workload.Clock())
            report = cut(scene, _some(tape, points, seed), seed=seed, ways=ways, again=_AGAIN, most=most, keep=keep)
        except Wrong as wrong:
            report = Report()
            report.faults.append(Fault(0, "none", str(wrong)))
        return Done(seed, len(tape.events), len(tape.asked), *_counted(tape), report)
    finally:
        shutil.rmtree(root)


def _some(tape: Tape, points: int, seed: int) -> list[int]:
    """Choose places: half of them where a file is checkpointed, made or ended, which is seldom, half of them anywhere."""
    everywhere = places(tape)
    seldom = [n for n in everywhere if any(_is_seldom(event) for event in tape.events[max(0, n - 2) : n + 2])]
    random = Random(seed)
    chosen = set(random.sample(seldom, min(len(seldom), points // 2)))
    others = [n for n in everywhere if n not in chosen]
    return sorted(chosen | set(random.sample(others, min(len(others), points - len(chosen)))))


def _is_seldom(event: Any) -> bool:
    """Tell whether an operation is not one of a plain commit: on the database itself, on names and sizes, or at the start of a log."""
    if isinstance(event, Write):
        return event.file == 1 or event.offset == 0
    return isinstance(event, OPERATIONS) and not isinstance(event, Sync)


def _counted(tape: Tape) -> tuple[int, int]:
    syncs = [event for event in tape.events if isinstance(event, Sync)]
    return sum(1 for event in syncs if event.file != 1), sum(1 for event in syncs if event.file == 1)
