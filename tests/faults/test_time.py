"""Clocks that jump, zones that change their offset, and schedulers that die: each slot fires once, and no deadline moves."""

from __future__ import annotations

import datetime
import itertools
import json
import logging
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import apsw
import pytest

from chappe import App, Command, Settings, cron, every
from chappe.bus.draft import Draft, new_id
from chappe.engines.file.database import open_database
from chappe.engines.file.owner import socket_path
from chappe.engines.file.server import Engine
from chappe.triggers.schedule import due
from chappe.triggers.scheduler import Scheduler

from ..waiting import until
from .inputs.house import clean_environment

HOUR, DAY = 3600.0, 86400.0
FAKETIME = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1"
ZONES = ("Europe/Paris", "America/New_York", "Australia/Lord_Howe", "America/Sao_Paulo", "Africa/Casablanca", "America/St_Johns")
FIRST, LAST = 2018, 2028


class Tick(Command, queue="ticks"):
    number: int = 0


# --- slots of cron, over ten years of changes of the clock


def instants(zone: ZoneInfo, day: datetime.date, hour: int, minute: int) -> float:
    """Return when a local time comes: the first of two, or the moment of the change that skips it."""
    wanted = datetime.datetime(day.year, day.month, day.day, hour, minute, tzinfo=zone)
    found = wanted.timestamp()
    if datetime.datetime.fromtimestamp(found, zone).replace(tzinfo=None) == wanted.replace(tzinfo=None):
        return found
    low, high = found - 6 * HOUR, found + 6 * HOUR  # the offset changes in between: look for where
    offset = datetime.datetime.fromtimestamp(low, zone).utcoffset()
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if datetime.datetime.fromtimestamp(middle, zone).utcoffset() == offset else (low, middle)
    return high


def days(zone: ZoneInfo) -> list[datetime.date]:
    first = datetime.date(FIRST, 1, 1)
    return [first + datetime.timedelta(n) for n in range((datetime.date(LAST, 1, 1) - first).days)]


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize(
    ("expression", "times"), [("30 2 * * *", [(2, 30)]), ("0 0 * * *", [(0, 0)]), ("15 1,2,3 * * *", [(1, 15), (2, 15), (3, 15)])]
)
def test_a_fixed_time_comes_once_a_day_for_ten_years(zone: str, expression: str, times: list[tuple[int, int]]) -> None:
    trigger, local = cron(expression, zone), ZoneInfo(zone)
    expected = sorted({instants(local, day, *one) for day in days(local) for one in times})
    moment, found = expected[0] - 1, list[float]()
    while (moment := trigger.after(moment)) <= expected[-1]:
        found.append(moment)

    assert found == expected


HALF_AN_HOUR = pytest.mark.xfail(strict=True, reason="where the change is half an hour, cronsim leaves out what the clock shows once")
PACES = [
    pytest.param(expression, zone, marks=[HALF_AN_HOUR] if zone == "Australia/Lord_Howe" and " 2 " in expression else [])
    for expression in ("*/10 * * * *", "*/10 2 * * *", "0 * * * *")
    for zone in ZONES
]


@pytest.mark.parametrize(("expression", "zone"), PACES)
def test_a_pace_follows_the_clock_on_the_wall_through_each_change(expression: str, zone: str) -> None:
    """What the change skips does not come, and what it repeats comes again: that is what the clock on the wall does."""
    trigger, local = cron(expression, zone), ZoneInfo(zone)
    minutes = 60 if expression.startswith("0 ") else 10
    hours = {2} if " 2 " in expression else set(range(24))
    start = datetime.datetime(FIRST, 1, 1, tzinfo=local).timestamp()
    noons = [start + n * DAY for n in range(len(days(local)))]
    changes = [a for a, b in itertools.pairwise(noons) if (local_of(a, local).utcoffset() != local_of(b, local).utcoffset())]
    assert len(changes) >= 3
    for change in changes:
        window = [change - HOUR + 60 * n for n in range(27 * 60)]
        times = [(moment, local_of(moment, local)) for moment in window]
        expected = [moment for moment, at in times if at.minute % minutes == 0 and at.hour in hours]
        moment, found = window[0] - 1, list[float]()
        while (moment := trigger.after(moment)) <= window[-1]:
            found.append(moment)
        assert found == expected, f"around {local_of(change, local)}"


def local_of(moment: float, zone: ZoneInfo) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(moment, zone)


@pytest.mark.parametrize("zone", ZONES)
def test_a_scheduler_that_starts_at_any_moment_sees_the_same_slots(zone: str) -> None:
    chance = random.Random(zone)
    for expression in ("30 2 * * *", "*/10 2 * * *", "0 * * * *"):
        trigger = cron(expression, zone)
        moment = datetime.datetime(2025, 1, 1, tzinfo=ZoneInfo(zone)).timestamp()
        for _ in range(800):
            following = trigger.after(moment)
            assert trigger.after(moment + chance.random() * (following - moment) * 0.999) == following
            moment = following


# --- schedulers whose clocks jump, over one real engine


class Clocks:
    """What one scheduler believes the time to be."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("seed", range(4))
async def test_schedulers_whose_clocks_jump_fire_each_slot_once(tmp_path: Path, seed: int, caplog: pytest.LogCaptureFixture) -> None:
    """Two hundred jumps of an hour or a month, back and forth, of three clocks that do not agree."""
    caplog.set_level(logging.INFO, "chappe.scheduler")
    chance, start = random.Random(seed), 1_790_000_000.0
    engine = Engine(tmp_path / "chappe.db", now=lambda: start, grace=0.0)
    app = App("clocks", settings=Settings(broker=f"sqlite:///{tmp_path}/chappe.db"))
    app.configure(app.settings, engine=engine)
    for trigger, misfire in ((cron("*/5 * * * *"), "once"), (every(7.5), "skip"), (cron("0 4 * * *", "Europe/Paris"), "all")):
        app.schedule(trigger, Tick(), misfire=misfire)
    connection = await app.connection()
    clocks = [Clocks(start) for _ in range(3)]
    schedulers = [
        Scheduler(
            app.schedules, connection.store, application=app.name, prepare=lambda m: app.bus.prepare(m, Draft(new_id())), merging=app.merger, now=clock
        )
        for clock in clocks
    ]  # fmt: skip
    highest = start
    for _ in range(200):
        one = chance.randrange(3)
        clocks[one].now += chance.choice((HOUR, -HOUR, 30 * DAY, -30 * DAY, 1.0, 60.0, 299.5))
        highest = max(highest, clocks[one].now)
        await schedulers[one].turn()
    fired = [record.args for record in caplog.records if record.msg.startswith("fired")]
    stored = (await connection.broker.depth("ticks")).ready
    await app.aclose()
    engine.close()

    assert len(fired) > 20
    assert [slot for slot, count in Counter(fired).items() if count > 1] == [], "a slot fired twice"
    assert stored == len(fired), "each slot is one message"
    for schedule in app.schedules:
        slots = [float(slot) for name, slot in fired if name == schedule.name]
        assert slots == sorted(slots), "a slot fired after a later one"
        assert all(schedule.trigger.after(slot - 0.01) == slot for slot in slots), "what is no slot fired"
        if schedule.misfire == "all" and slots:
            expected = due(schedule, start, highest)[: len(slots)]
            assert slots == expected, "a slot was left out"


async def test_a_schedule_that_is_ahead_of_its_clock_says_so_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    engine = Engine(tmp_path / "chappe.db", grace=0.0)
    app = App("clocks", settings=Settings(broker=f"sqlite:///{tmp_path}/chappe.db"))
    app.configure(app.settings, engine=engine)
    app.schedule(every(60), Tick(), name="minutely")
    connection, clock = await app.connection(), Clocks(1_790_000_040.0)
    one = Scheduler(
        app.schedules,
        connection.store,
        application=app.name,
        prepare=lambda m: app.bus.prepare(m, Draft(new_id())),
        merging=app.merger,
        now=clock,
    )
    for now in (0.0, 30 * DAY, 0.0, 60.0, 120.0):
        clock.now = 1_790_000_040.0 + now
        assert 0 < await one.turn() <= 5
    await app.aclose()
    engine.close()

    assert [r.message for r in caplog.records if r.levelno == logging.WARNING] == [
        "clocks:minutely has fired 2592000 s ahead of this clock, which was set back; it goes on when the clock has caught up"
    ]


# --- real processes

APPLICATION = """
import os, pathlib, time
from chappe import App, Command, every

app = App("clocks")
here = pathlib.Path(__file__).parent


def write(*words):
    handle = os.open(here / "log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(handle, (" ".join(map(str, words)) + "\\n").encode())
    os.close(handle)


class Tick(Command, queue="ticks"):
    pass


class Later(Command, queue="later"):
    name: str


@app.handles(Tick)
async def tick(command: Tick): ...


@app.handles(Later)
async def later(command: Later):
    write(command.name, time.monotonic())


app.schedule(every(0.2), Tick(), name="fast")
"""


class Folder:
    """A folder in which processes of Chappe run, whose clock on the wall can be set."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stamp = path / "wall"
        self.environment = {**clean_environment(), "CHAPPE_APP": "clocks:app"}
        self.processes: list[subprocess.Popen[bytes]] = []
        (path / "clocks.py").write_text(APPLICATION)
        self.set_wall(0)

    def set_wall(self, ahead: float) -> None:
        """Set the clock on the wall ahead of the real one, at once and for all processes that look at ours."""
        replacement = self.stamp.with_suffix(".new")
        replacement.write_text(f"{ahead:+.0f}\n")
        replacement.replace(self.stamp)

    def start(self, *arguments: str, own_wall: bool = False) -> subprocess.Popen[bytes]:
        environment = dict(self.environment)
        if own_wall:
            environment |= {
                "LD_PRELOAD": FAKETIME, "FAKETIME_TIMESTAMP_FILE": str(self.stamp), "FAKETIME_NO_CACHE": "1",
                "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            }  # fmt: skip
        with (self.path / f"{arguments[0]}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "chappe", *arguments], cwd=self.path, env=environment, stdout=log, stderr=log
            )  # fmt: skip
        self.processes.append(process)
        if arguments[0] == "engine":
            until(socket_path(self.path / "chappe.db").exists, "the engine to listen")
        return process

    def log(self, name: str) -> str:
        path = self.path / f"{name}.log"
        return path.read_text() if path.exists() else ""

    def handled(self) -> dict[str, float]:
        """Return what was handled, each with the moment of the steady clock."""
        path = self.path / "log"
        return {line.split()[0]: float(line.split()[1]) for line in path.read_text().splitlines()} if path.exists() else {}

    def send(self, *arguments: str) -> float:
        """Send from a process with the real clock, and give the moment at which that was done."""
        done = subprocess.run(
            [sys.executable, "-m", "chappe", "send", *arguments], cwd=self.path, env=self.environment, capture_output=True, timeout=200, check=False
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return time.monotonic()

    def count(self, statement: str) -> list[tuple[Any, ...]]:
        with apsw.Connection(str(self.path / "chappe.db"), flags=apsw.SQLITE_OPEN_READONLY) as db:
            db.set_busy_timeout(2000)
            return db.execute(statement).fetchall()

    def close(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait(60)
            for left in (f"faketime_shm_{process.pid}", f"sem.faketime_sem_{process.pid}"):
                Path("/dev/shm", left).unlink(missing_ok=True)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    """A folder whose processes end with the test."""
    folder = Folder(tmp_path)
    yield folder
    folder.close()


@pytest.mark.proof
@pytest.mark.parametrize("schedulers", [1, 2, 3])
def test_each_slot_is_one_message_while_schedulers_are_killed_at_random(folder: Folder, schedulers: int) -> None:
    """Every slot of 0.2 s for about six seconds; a trigger in the file notes the slot of each firing."""
    db = open_database(folder.path / "chappe.db")
    db.execute("create table noted (slot real, stored integer)")
    db.execute(
        "create trigger note after insert on schedule begin insert into noted values (new.slot, (select count(*) from ready)); end"
    )  # fmt: skip
    db.close()
    chance = random.Random(schedulers)
    folder.start("engine")
    running = [folder.start("scheduler") for _ in range(schedulers)]
    until(lambda: len(folder.count("select slot from noted")) > 3, "the first slots")
    ends, kills = time.monotonic() + 6.0, 0
    while kills < 5 or time.monotonic() < ends:
        one = chance.randrange(schedulers)
        running[one].send_signal(signal.SIGKILL)
        running[one].wait(60)
        running[one] = folder.start("scheduler")
        kills += 1
        slots = len(folder.count("select slot from noted"))
        until(lambda: len(folder.count("select slot from noted")) > slots + chance.randrange(3), "slots after a kill")  # noqa: B023
    for one in running:
        one.kill()
        one.wait(60)
    noted = [(slot / 0.2, stored) for slot, stored in folder.count("select slot, stored from noted")]
    begun = [slot for slot, stored in noted if stored == 0]
    fired = [(round(slot, 3), stored) for slot, stored in noted if stored > 0]
    first = round(noted[len(begun)][0])

    assert len(fired) >= 20
    assert fired == [(first + n, n + 1) for n in range(len(fired))], "each slot in its order, once, and with one message"
    assert len(begun) <= schedulers
    assert all(0 < first - slot <= 1.001 for slot in begun[-1:]), "a new schedule begins with its next slot"


needs_faketime = pytest.mark.skipif(not Path(FAKETIME).exists(), reason="Debian's libfaketime is missing: make tools installs it")


@pytest.mark.proof
@needs_faketime
def test_messages_wait_as_long_as_they_should_whatever_the_wall_says(folder: Folder) -> None:
    """The wall jumps by an hour and by a month in both directions while delayed messages wait and one is handled late."""
    folder.start("engine", own_wall=True)
    folder.start("worker", "-Q", "later", own_wall=True)
    until(lambda: "serves later" in folder.log("worker"), "the worker")
    for jump in (HOUR, -HOUR, 30 * DAY, -30 * DAY, 0.0):
        name, began = f"after{jump:+.0f}", time.monotonic()
        sent = folder.send("later", f"name={name}", "--delay", "2")
        folder.set_wall(jump)
        until(lambda: name in folder.handled(), f"{name} to be handled")  # noqa: B023 - called at once
        handled = folder.handled()[name]
        assert handled >= began + 2, "it came too early"
        assert handled <= sent + 2 + 3, "it came too late"


@pytest.mark.proof
@needs_faketime
def test_a_scheduler_keeps_its_pace_through_jumps_and_follows_the_wall_when_it_starts(folder: Folder) -> None:
    """The clock goes an hour ahead and back; then a scheduler starts while it is ahead, and another one when it is back."""
    folder.start("engine")
    one = folder.start("scheduler", own_wall=True)

    def last() -> float:
        found = folder.count("select slot from schedule where name = 'clocks:fast'")
        return float(found[0][0]) if found else 0.0

    def pace() -> float:
        """Return how far the slots are from the real time, when the next one has fired."""
        before = last()
        until(lambda: last() > before, "another slot")
        return last() - time.time()

    def stored() -> tuple[float, int]:
        return last(), folder.count("select count(*) from ready")[0][0]

    def at_rest() -> tuple[float, int]:
        """Return what is stored when nothing was on its way for half a second."""
        seen, since = stored(), time.monotonic()
        while time.monotonic() < since + 0.5:
            if (now := stored()) != seen:
                seen, since = now, time.monotonic()
        return seen

    until(lambda: last() > 0, "the first slot")
    for jump in (0.0, HOUR, -HOUR, 0.0):
        folder.set_wall(jump)
        assert [abs(pace()) < 3 for _ in range(5)] == [True] * 5, f"the wall at {jump:+.0f} s moved a scheduler that runs"
    folder.set_wall(HOUR)
    one.send_signal(signal.SIGKILL)
    one.wait(60)
    one = folder.start("scheduler", own_wall=True)
    until(lambda: last() > time.time() + HOUR - 60, "the scheduler that started ahead to fire for the hour ahead")
    one.send_signal(signal.SIGKILL)
    one.wait(60)
    folder.set_wall(0.0)
    reached, messages = at_rest()
    folder.start("scheduler", own_wall=True)
    said = until(lambda: re.search(r"fast has fired (\d+) s ahead of this clock, which was set back", folder.log("scheduler")), "a warning")

    assert 3400 <= int(said[1]) <= 3601
    assert stored() == (reached, messages), "no slot fires twice"
    assert json.loads(folder.log("scheduler").splitlines()[-1])["level"] == "warning"
