"""Cuts the power at places of a tape, in many ways at each, and holds what is found against what was promised."""

from __future__ import annotations

import collections
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Final, NamedTuple, Protocol

import apsw

from chappe.engines.file.ledger import Ledger
from chappe.errors import ChappeError

from .disk import Disk, Grow, Image, Link, Sync, SyncFolder, Truncate, Unlink, Write
from .promises import Fact, Promises, Wrong
from .recovery import lay, recover
from .tape import Answered, Asked, Index, Lent, Ready, Tape
from .vfs import recording

_AGAIN: Final = 5  # places in one recovery
_INDICES: Final = 10  # which may be found, of those there were last
_INDEX_SIZE: Final = 32768
OPERATIONS: Final = (Write, Truncate, Grow, Link, Unlink, Sync, SyncFolder)


class Bounds(NamedTuple):
    """What may be found when the power goes at a place: the result of at least `least` and at most `most` requests."""

    least: int
    most: int
    highest: int  # the largest number that was lent


class Fault(NamedTuple):
    """A promise that was broken."""

    place: int
    way: str
    what: str

    def __str__(self) -> str:
        return f"event {self.place}, {self.way}: {self.what}"


class Report:
    """What was tried, and what was wrong."""

    def __init__(self) -> None:
        self.points = 0
        self.ways = collections.Counter[str]()
        self.faults: list[Fault] = []

    @property
    def recoveries(self) -> int:
        """How often the engine started from what was left."""
        return sum(self.ways.values())


def places(tape: Tape, *, ready: bool = True) -> list[int]:
    """Return the places where a cut can leave something else than the place before: in front of each operation of the disk, and at the end.

    All answers before the operation are then out, so each place asks for as much as any place of the same disk. `ready` leaves out
    those before the first start was done.
    """
    first = next(n for n, event in enumerate(tape.events) if isinstance(event, Ready)) if ready else 0
    found = [n for n, event in enumerate(tape.events) if n > first and isinstance(event, OPERATIONS)]
    return [*found, len(tape.events)]


def bounds(tape: Tape) -> list[Bounds]:
    """Return for each place what may be found there. Raises `Wrong` if the engine lent what it had refused."""
    changed: dict[tuple[str, str], int] = {}  # the request that stored each message
    promises = Promises()
    least = most = highest = 0
    given = [Bounds(0, 0, 0)]
    for event in tape.events:
        if isinstance(event, Asked):
            most = event.number + 1
            before = promises.facts
            promises = promises.copy()
            promises.take(event, tape.answers.get(event.number))
            for name in promises.facts.keys() - before.keys():
                if name[0] == "message":
                    changed[name[1:]] = most
        elif isinstance(event, Answered):
            least = max(least, 0 if event.refused else event.number + 1)
        elif isinstance(event, Lent):
            for tag, queue, identity in event.deliveries:
                if (queue, identity) not in changed:
                    raise Wrong(f"{identity} of {queue} was lent, and never accepted")
                highest = max(highest, tag)
                least = max(least, changed[queue, identity])
        given.append(Bounds(least, most, highest))
    return given


class Judge(Protocol):
    """Says whether what was found after a cut is what was promised; places come in order."""

    def highest(self, place: int) -> int:
        """Return the largest number that was lent before a place."""
        ...

    def judge(self, place: int, found: dict[Fact, Any]) -> None:
        """Raise `Wrong` if it is not."""
        ...


class Model:
    """The judge who knows each request: what is found must be what follows from some number of them within the bounds."""

    def __init__(self, tape: Tape) -> None:
        self._tape = tape
        self._bounds = bounds(tape)
        self._sure = Promises()
        self._sure_of = 0

    def highest(self, place: int) -> int:
        return self._bounds[place].highest

    def judge(self, place: int, found: dict[Fact, Any]) -> None:
        least, most, _ = self._bounds[place]
        while self._sure_of < least:
            self._take(self._sure, self._sure_of)
            self._sure_of += 1
        promised, nearest = self._sure, differences(found, self._sure.facts)
        for number in range(least, most):
            if not nearest:
                return
            promised = promised.copy()
            self._take(promised, number)
            nearest = min(nearest, differences(found, promised.facts), key=len)
        if nearest:
            raise Wrong("; ".join(nearest[:4]) + (f"; and {len(nearest) - 4} more" if len(nearest) > 4 else ""))

    def _take(self, promises: Promises, number: int) -> None:
        promises.take(self._tape.asked[number], self._tape.answers.get(number))


def differences(found: dict[Fact, Any], promised: dict[Fact, Any]) -> list[str]:
    """Say what is missing, what came back and what is otherwise."""
    if found == promised:
        return []
    said: list[str] = []
    for name in promised.keys() | found.keys():
        here, there = found.get(name, Wrong), promised.get(name, Wrong)
        if here is Wrong:
            said.append(f"{' '.join(map(str, name))} is missing, promised was {there}")
        elif there is Wrong:
            said.append(f"{' '.join(map(str, name))} is there and should not be: {here}")
        elif here != there:
            said.append(f"{' '.join(map(str, name))} is {here}, promised was {there}")
    return sorted(said)


class Scene(NamedTuple):
    """What was recorded, where its cuts are tried, and who judges them."""

    events: Sequence[object]
    judge: Judge
    folder: Path  # empty; each state of the disk is laid out in it
    database: str  # the path of the database below it
    now: Callable[[], float]


def cut(
    scene: Scene,
    at: Sequence[int],
    *,
    seed: int = 0,
    ways: int = 100,
    again: int = 0,
    index: bool = False,
    most: int = 5,
    keep: Path | None = None,
) -> Report:
    """Cut the power at each place, and recover from the states that the disk may have then; stop after the place of so many faults.

    `ways`: how many states, of which one is that only what was synced is there. `again`: at one place of so many the power goes
    once more, during the first start after it. `index`: a `-shm` file is found too, as it was some time before. `keep`: where the
    files of the first fault are left.
    """
    report, disk, done = Report(), Disk(), 0
    indices: list[bytes] = []
    for place in sorted(at):
        for event in scene.events[done:place]:
            if isinstance(event, OPERATIONS):
                disk.do(event)
            elif isinstance(event, Index):
                indices = [*indices[-_INDICES + 1 :], event.data]
        done = place
        report.points += 1
        random = Random(f"{seed} {place}")
        images = _images(disk, random, ways)
        if again and report.points % again == 0:
            images += _during_recovery(scene, random.choice(images)[1], random, ways)
        if index and indices:
            shm = {f"{scene.database}-shm": random.choice((indices[-1], *indices)).ljust(_INDEX_SIZE, b"\0")}
            images = [(f"index: {way}", {**image, **shm}) for way, image in images]
        for way, image in images:
            report.ways[way.split()[0]] += 1
            lay(image, scene.folder)
            try:
                recover(scene.folder / scene.database, scene.now, scene.judge.highest(place), partial(scene.judge.judge, place))
            except Wrong as wrong:
                report.faults.append(Fault(place, way, str(wrong)))
                if keep is not None and len(report.faults) == 1:
                    lay(image, keep)
        if len(report.faults) >= most:
            break
    return report


def _images(disk: Disk, random: Random, ways: int = 100) -> list[tuple[str, Image]]:
    synced, *states = disk.states(random)
    chosen = [synced, *random.sample(states, min(len(states), ways - 1))]
    found = [(way, disk.image(changes)) for way, changes in chosen]
    if len(found) < ways and (short := disk.image(disk.pending, short=True)) != disk.image(disk.pending):
        found.append(("short", short))
    return found


def _during_recovery(scene: Scene, image: Image, random: Random, ways: int) -> list[tuple[str, Image]]:
    """Start from an image, and cut the power again while that goes on."""
    image = {path: bytes(data) for path, data in image.items()}
    lay(image, scene.folder)
    tape = Tape()
    try:
        with recording(tape, scene.folder, scene.folder / scene.database, image):
            Ledger(scene.folder / scene.database, scene.now).close()
    except (ChappeError, apsw.Error):
        return []  # said already, by those who start from this image without another cut
    at, disk, found = places(tape, ready=False), Disk(image), list[tuple[str, Image]]()
    done = 0
    for place in sorted(random.sample(at, min(len(at), _AGAIN))):
        for operation in tape.events[done:place]:
            if isinstance(operation, OPERATIONS):
                disk.do(operation)
        done = place
        found += [(f"again: {way}", image) for way, image in _images(disk, random, ways)]
    return found
