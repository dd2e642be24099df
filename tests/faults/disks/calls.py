"""Has the n-th call to the disk fail under a real engine, and looks whether it told anybody something false.

`strace` makes the call fail, on the files of the database only. Publishers store batches one after the other until the engine ends;
then another engine opens the file, and what was confirmed must be there, and every batch whole or not at all.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from chappe.engines.file.broker import FileBroker
from chappe.engines.file.server import Engine
from chappe.errors import BrokerError, ChappeError, Rejected
from chappe.messages.envelope import Envelope, Publication
from chappe.messages.topology import Queue, Topology

from .. import planted

SUFFIXES = ("", "-wal", "-shm", ".reserve", ".lock")
BATCH = 3
_BODY = 40_000  # so that the log is written back every hundred commits
_PATIENCE = 20.0
_ENOUGH = 150


class Failure(NamedTuple):
    """The n-th call of one kind fails; `sticky` means all that follow too. With `made` the file is there already.

    `then_killed` is at which write the engine that comes next is killed, while it brings the file in order; 0 for never.
    """

    call: str
    n: int
    sticky: bool = False
    made: bool = True
    then_killed: int = 0
    how: str = "error=EIO"

    def wrap(self, path: Path, command: list[str]) -> list[str]:
        """Return the command line under which a command runs into this failure; the process started is the command, strace its child."""
        where = [word for suffix in SUFFIXES for word in ("-P", f"{path}{suffix}")]
        when = f"{self.n}+" if self.sticky else str(self.n)
        inject = f"inject={self.call}:{self.how}:when={when}"
        return [
            "strace",
            "-D",
            "-f",
            "--seccomp-bpf",
            "-o",
            "/dev/null",
            *where,
            "-P",
            str(path.parent),
            "-e",
            f"trace={self.call}",
            "-e",
            inject,
            *command,
        ]


class Case(NamedTuple):
    """What came of one failure: how the engine ended, and the promises that were broken."""

    code: int | None
    confirmed: int
    unknown: int
    faults: list[str]


class _Told:
    """What the publishers were told of each of their batches."""

    def __init__(self) -> None:
        self.confirmed: set[str] = set()
        self.refused: set[str] = set()
        self.unknown: set[str] = set()


def meet(failure: Failure, folder: Path) -> Case:
    """Run an engine into a failure under publishers, then look at what it left."""
    path = folder / "chappe.db"
    folder.mkdir(parents=True)
    try:
        if failure.made:
            asyncio.run(_make(path))
        told = _Told()
        with _engine(failure, path) as engine:
            code = asyncio.run(_publish(path, engine, told))
        if failure.then_killed:
            with _engine(Failure("pwrite64", failure.then_killed, how="signal=SIGKILL"), path) as engine:
                _wait_for(lambda: engine.poll() is not None or Path(f"{path}.sock").exists())
        return Case(code, len(told.confirmed), len(told.unknown), asyncio.run(_look(path, told, (folder / "said").read_text())))
    finally:
        shutil.rmtree(folder)


@contextmanager
def _engine(failure: Failure, path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run an engine into a failure, and leave none behind."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("CHAPPE_") or k == planted.VARIABLE}
    Path(f"{path}.sock").unlink(missing_ok=True)
    with (path.parent / "said").open("ab") as said:
        command = failure.wrap(path, [sys.executable, "-m", "chappe", "engine"])
        engine = subprocess.Popen(command, cwd=path.parent, env=environment, stdout=said, stderr=said)
    try:
        yield engine
    finally:
        if engine.poll() is None:
            engine.kill()
        engine.wait()


def _wait_for(look: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not look() and time.monotonic() < deadline:
        time.sleep(0.01)


async def _make(path: Path) -> None:
    engine = Engine(path, grace=0.0)
    broker = FileBroker(path, engine=engine)
    await broker.declare(Topology(queues=(Queue("q"),)))
    await broker.close()
    engine.close()


async def _publish(path: Path, engine: subprocess.Popen[bytes], told: _Told) -> int | None:
    """Have three publishers store batches until the engine ends, or enough is stored; give its exit code, None if it still ran."""
    brokers = [FileBroker(path, may_own_file=False, deadline=1.0) for _ in range(3)]
    try:
        await asyncio.gather(*(_store(broker, name, engine, told) for broker, name in zip(brokers, "abc", strict=True)))
    finally:
        for broker in brokers:
            await broker.close()
    if engine.poll() is None and sum(map(len, (told.confirmed, told.refused, told.unknown))) >= _ENOUGH:
        engine.terminate()
        engine.wait(_PATIENCE)
        return None
    _wait_for(lambda: engine.poll() is not None)
    return engine.poll()


async def _store(broker: FileBroker, name: str, engine: subprocess.Popen[bytes], told: _Told) -> None:
    number = 0
    declared = False
    while engine.poll() is None and sum(map(len, (told.confirmed, told.refused, told.unknown))) < _ENOUGH:
        batch = f"{name}{number}"
        number += 1
        try:
            if not declared:
                await broker.declare(Topology(queues=(Queue("q"),)))
                declared = True
            body = random.Random(batch).randbytes(_BODY)
            await broker.publish([Publication(Envelope(f"{batch}.{n}", "t", body), "q") for n in range(BATCH)])
        except Rejected:
            told.refused.add(batch)
        except BrokerError:
            told.unknown.add(batch)
        else:
            told.confirmed.add(batch)


async def _look(path: Path, told: _Told, said: str) -> list[str]:
    """Open the file with a sound disk, and compare."""
    if not path.exists() or path.stat().st_size == 0:
        return [f"{len(told.confirmed)} confirmed, and there is no file"] if told.confirmed else []
    try:
        engine = Engine(path, grace=0.0)
    except ChappeError as error:
        return [f"the file cannot be opened: {error}; the engine had said: {said[-500:]}"]
    found: Counter[str] = Counter()
    broker = FileBroker(path, engine=engine)
    try:
        if "q" in engine.ledger.turn.routes.queues:
            async with broker.consume(["q"], prefetch=2 * BATCH * _ENOUGH) as consumer:
                while deliveries := await consumer.receive(100, 0.002):
                    for delivery in deliveries:
                        batch = delivery.envelope.id.partition(".")[0]
                        sound = delivery.envelope.body == random.Random(batch).randbytes(_BODY)
                        found[batch if sound else f"a damaged message of {batch}"] += 1
    finally:
        await broker.close()
        engine.close()
    faults = [f"{batch} was confirmed and is not there" for batch in sorted(told.confirmed - set(found))]
    faults += [f"{batch} was refused and is there" for batch in sorted(told.refused & set(found))]
    faults += [f"{batch} is there {count} times instead of {BATCH}" for batch, count in sorted(found.items()) if count != BATCH]
    faults += [f"{batch} was never sent" for batch in sorted(set(found) - told.confirmed - told.refused - told.unknown)]
    return faults


def plan(cases: int, seed: int) -> list[Failure]:
    """Choose failures: the first calls of each kind one by one, then some of the later ones."""
    chance = random.Random(seed)
    kinds = (("fdatasync", 90), ("pwrite64", 4000), ("fallocate", 2), ("ftruncate", 6), ("fsync", 2), ("pread64", 40))
    found: list[Failure] = []
    for number in range(cases):
        call, most = kinds[number % 2] if number % 6 else kinds[2 + number // 6 % 4]
        n = number // 4 + 1 if number % 4 < 2 else chance.randint(1, most)
        found.append(Failure(call, n, sticky=number % 3 == 0, made=number % 5 != 0, then_killed=chance.randint(1, 12) if number % 2 else 0))
    return found


def run(cases: int, seed: int, folder: Path) -> dict[str, Any]:
    """Meet as many failures as asked for, and give the evidence."""
    started = time.monotonic()
    codes: Counter[str] = Counter()
    faults: list[str] = []
    confirmed = unknown = 0
    for number, failure in enumerate(plan(cases, seed)):
        case = meet(failure, folder / f"case-{number}")
        codes[f"{failure.call}: {case.code}"] += 1
        confirmed += case.confirmed
        unknown += case.unknown
        faults += [f"{failure}: {fault}" for fault in case.faults]
    return {
        "options": {"cases": cases, "seed": seed}, "ended with": dict(sorted(codes.items())), "confirmed": confirmed * BATCH,
        "unknown": unknown * BATCH, "faults": faults, "seconds": round(time.monotonic() - started, 1),
    }  # fmt: skip
