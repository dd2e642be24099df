"""A schedule whose definition changes begins to count when it changes: nothing is caught up that was never its slot."""

from __future__ import annotations

import datetime
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest

from chappe import Command, cron, every
from chappe.bus.bus import Bus
from chappe.bus.merging import Merger
from chappe.bus.providers import Providers
from chappe.bus.registry import Registry
from chappe.engines.contract.store import Store
from chappe.engines.file.broker import FileBroker
from chappe.engines.file.server import Engine
from chappe.engines.file.store import store_of
from chappe.messages.envelope import Envelope, Publication
from chappe.messages.topology import Topology, bind
from chappe.triggers.schedule import Schedule, Trigger
from chappe.triggers.scheduler import Scheduler


class Tick(Command, queue="q"):
    text: str = ""


class Host:
    """A file engine and the schedulers that come and go beside it, with one clock."""

    def __init__(self, store: Store, fired: Callable[[], int]) -> None:
        self._store = store
        self._fired = fired
        self.now = 0.0

    def at(self, text: str) -> None:
        """Set the clock."""
        self.now = datetime.datetime.fromisoformat(text).replace(tzinfo=datetime.UTC).timestamp()

    def deploy(self, *schedules: Schedule) -> Scheduler:
        """Start a scheduler, as a release does."""
        return Scheduler(
            schedules, self._store, application="app", merging=Merger(Bus(Registry(), Providers())), now=lambda: self.now,
            prepare=lambda message: Publication(Envelope(f"{self.now}", "tick", b"{}"), "q"),
        )  # fmt: skip

    async def run(self, schedulers: Sequence[Scheduler], text: str, step: float = 1800.0) -> int:
        """Let the schedulers run until a time, and tell how many messages they sent."""
        before = self._fired()
        end = datetime.datetime.fromisoformat(text).replace(tzinfo=datetime.UTC).timestamp()
        while True:
            for scheduler in schedulers:
                await scheduler.turn()
            if self.now >= end:
                return self._fired() - before
            self.now = min(end, self.now + step)


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    engine = Engine(tmp_path / "chappe.db", grace=0.0)
    broker = FileBroker(tmp_path / "chappe.db", engine=engine)
    await broker.declare(Topology(queues=(bind("q"),)))
    yield Host(store_of(broker), lambda: engine.ledger.turn.routes.queue("q").published)
    await broker.close()
    engine.close()


def daily(time: str, zone: str = "UTC") -> Trigger:
    hour, minute = time.split(":")
    return cron(f"{int(minute)} {int(hour)} * * *", zone)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (Schedule("s", daily("12:29"), Tick()), Schedule("s", daily("14:29"), Tick())),
        (Schedule("s", daily("12:29"), Tick()), Schedule("s", daily("10:29"), Tick())),
        (Schedule("s", daily("12:29"), Tick()), Schedule("s", daily("12:29", "Asia/Tokyo"), Tick())),
        (Schedule("s", daily("12:29"), Tick()), Schedule("s", every(86_400), Tick())),
        (Schedule("s", daily("10:00"), Tick(), "skip"), Schedule("s", every(3600), Tick(), "all")),
        (Schedule("s", daily("12:29"), Tick()), Schedule("renamed", daily("10:29"), Tick())),
    ],
    ids=["later", "earlier", "zone", "cron to every", "misfire", "renamed"],
)
async def test_a_changed_schedule_does_not_fire_when_it_is_deployed(host: Host, before: Schedule, after: Schedule) -> None:
    host.at("2026-11-25T09:00")
    await host.run([host.deploy(before)], "2026-11-29T11:20")
    assert await host.run([host.deploy(after)], "2026-11-29T11:40") == 0


async def test_the_moved_schedule_fires_at_its_new_time_and_at_the_old_one_no_more(host: Host) -> None:
    host.at("2026-11-28T09:00")
    assert await host.run([host.deploy(Schedule("s", daily("12:29"), Tick()))], "2026-11-29T11:29") == 1
    moved = host.deploy(Schedule("s", daily("14:29"), Tick()))
    assert await host.run([moved], "2026-11-29T14:28") == 0
    assert await host.run([moved], "2026-11-29T14:29") == 1
    assert await host.run([moved], "2026-12-01T14:28") == 1


@pytest.mark.parametrize("changed", [3600.0, 3600.5])
async def test_another_pace_counts_from_its_change(host: Host, changed: float) -> None:
    host.at("2026-11-29T09:00:30")
    assert await host.run([host.deploy(Schedule("s", every(60), Tick()))], "2026-11-29T09:30:30", step=60.0) == 30
    slow = host.deploy(Schedule("s", every(changed), Tick()))
    host.at("2026-11-29T09:50:00")  # it was down for a while
    assert await host.run([slow], "2026-11-29T09:59:00") <= 1
    assert 0 <= await host.run([slow], "2026-11-29T10:59:00") <= 1


async def test_another_misfire_does_not_catch_up_what_was_skipped_under_the_old_one(host: Host) -> None:
    host.at("2026-11-20T09:00")
    await host.run([host.deploy(Schedule("s", every(3600), Tick(), "skip"))], "2026-11-20T09:30")
    host.at("2026-11-29T09:30")
    assert await host.run([host.deploy(Schedule("s", every(3600), Tick(), "all"))], "2026-11-29T09:40") == 0


async def test_another_message_of_the_same_times_goes_on_and_misses_nothing(host: Host) -> None:
    host.at("2026-11-28T09:00")
    await host.run([host.deploy(Schedule("s", daily("12:29"), Tick(text="a")))], "2026-11-29T12:28")
    host.at("2026-11-29T12:31")  # the deploy took the minute in which it was due
    assert await host.run([host.deploy(Schedule("s", daily("12:29"), Tick(text="b")))], "2026-11-29T12:32") == 1


async def test_a_schedule_that_was_removed_and_comes_back_weeks_later_begins_with_its_next_slot(host: Host) -> None:
    schedule, other = Schedule("s", daily("12:29"), Tick()), Schedule("other", daily("03:00"), Tick())
    host.at("2026-11-01T09:00")
    await host.run([host.deploy(schedule, other)], "2026-11-02T09:00")
    await host.run([host.deploy(other)], "2026-11-22T09:00", step=7200.0)
    back = host.deploy(schedule, other)
    assert await host.run([back], "2026-11-22T12:28") == 0
    assert await host.run([back], "2026-11-22T12:29") == 1


async def test_a_schedule_that_nobody_ran_for_weeks_catches_up_once(host: Host) -> None:
    schedule = Schedule("s", daily("12:29"), Tick())
    host.at("2026-11-01T09:00")
    await host.run([host.deploy(schedule)], "2026-11-02T09:00")
    host.at("2026-11-22T09:00")
    assert await host.run([host.deploy(schedule)], "2026-11-22T09:10") == 1


async def test_the_schedulers_of_two_releases_fire_each_slot_once_and_do_not_begin_each_other_anew(host: Host) -> None:
    host.at("2026-11-28T13:00")
    old = host.deploy(Schedule("s", every(600), Tick()))
    await host.run([old], "2026-11-29T11:55")
    new = host.deploy(Schedule("s", every(1200), Tick()))
    assert await host.run([old, new], "2026-11-29T13:55", step=47.0) == 12, (
        "those of the old one, of which each second is one of the new one"
    )
    assert await host.run([new], "2026-11-29T15:55", step=47.0) == 6


async def test_an_old_scheduler_that_restarts_during_a_deploy_keeps_nobody_from_firing(host: Host) -> None:
    before, after = Schedule("s", daily("12:29"), Tick()), Schedule("s", daily("12:40"), Tick())
    host.at("2026-11-28T13:00")
    await host.run([host.deploy(before)], "2026-11-29T12:00")
    new = host.deploy(after)
    await host.run([new], "2026-11-29T12:10")
    old = host.deploy(before)
    await host.run([new, old], "2026-11-29T12:20")
    assert await host.run([new], "2026-11-29T12:41") == 1
    assert await host.run([new], "2026-11-30T12:41") == 1


async def test_a_release_that_is_taken_back_fires_nothing_at_once(host: Host) -> None:
    before, after = Schedule("s", daily("12:29"), Tick()), Schedule("s", daily("12:40"), Tick())
    host.at("2026-11-28T13:00")
    await host.run([host.deploy(before)], "2026-11-29T12:35")
    await host.run([host.deploy(after)], "2026-11-29T12:41")
    back = host.deploy(before)
    assert await host.run([back], "2026-11-30T12:28") == 0
    assert await host.run([back], "2026-11-30T12:29") == 1


async def test_a_change_after_the_clock_was_set_back_does_not_wait_for_the_time_it_had(host: Host) -> None:
    host.at("2027-06-01T09:00")
    await host.run([host.deploy(Schedule("s", daily("12:29"), Tick()))], "2027-06-02T13:00")
    host.at("2026-11-29T11:00")
    changed = host.deploy(Schedule("s", daily("14:29"), Tick()))
    assert await host.run([changed], "2026-11-29T14:28") == 0
    assert await host.run([changed], "2026-11-29T14:29") == 1
