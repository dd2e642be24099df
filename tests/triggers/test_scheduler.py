"""The scheduler: each slot is sent once, whatever the number of schedulers."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from chappe import Command, every
from chappe.bus.bus import Bus
from chappe.bus.merging import Merger
from chappe.bus.providers import Providers
from chappe.bus.registry import Registry
from chappe.engines.contract.fleet import PAUSED, Desired
from chappe.errors import BrokerUnavailable, DefinitionError
from chappe.messages.envelope import Envelope, Publication
from chappe.triggers.schedule import Schedule
from chappe.triggers.scheduler import Scheduler

from ..waiting import auntil


class Tick(Command, queue="q"):
    pass


class Memory:
    """The store's verbs for schedules."""

    def __init__(self) -> None:
        self.last: dict[str, float] = {}
        self.fired: list[float] = []
        self.away = 0
        self.wanted: list[Desired] = []

    async def desired(self, *, after: int = 0, every: bool = False, limit: int = 1000) -> list[Desired]:
        latest = {one.what: one for one in self.wanted}
        return [one for one in self.wanted if one.number > after and latest[one.what] is one]

    def want(self, value: str | None, at: float, name: str = "s") -> None:
        self.wanted.append(Desired(len(self.wanted) + 1, f"schedule:{name}", value, "ann", at))

    async def last_fired(self, schedule: str) -> float | None:
        if self.away:
            self.away -= 1
            raise BrokerUnavailable("away")
        return self.last.get(schedule)

    async def begin_schedules(self, application: str, definitions: Mapping[str, str], now: float) -> None:
        for name in definitions:
            self.last.setdefault(name, now)

    async def fire(self, schedule: str, slot: float, publications: Sequence[Publication], merge: Any = None) -> bool:
        if slot <= self.last.get(schedule, float("-inf")):
            return False
        self.last[schedule] = slot
        self.fired += [slot for _ in publications]
        return True


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def scheduler(memory: Any, clock: Clock, *schedules: Schedule) -> Scheduler:
    return Scheduler(
        schedules or (Schedule("s", every(60), Tick()),), memory, application="app",
        prepare=lambda _: Publication(Envelope("id", "tick", b"{}"), "q"), merging=Merger(Bus(Registry(), Providers())), now=clock,
    )  # fmt: skip


async def test_a_new_schedule_begins_with_its_next_slot() -> None:
    memory, clock = Memory(), Clock()
    assert await scheduler(memory, clock).turn() == 5.0
    assert memory.fired == []
    clock.now = 1019.0
    assert await scheduler(memory, clock).turn() == pytest.approx(1.0)
    clock.now = 1020.0
    await scheduler(memory, clock).turn()
    assert memory.fired == [1020.0]


async def test_two_schedulers_fire_each_slot_once() -> None:
    memory, clock = Memory(), Clock()
    two = scheduler(memory, clock), scheduler(memory, clock)
    for second in range(300):
        clock.now = 1000.0 + second
        for one in two:
            await one.turn()
    assert memory.fired == [1020.0, 1080.0, 1140.0, 1200.0, 1260.0]


async def test_a_clock_that_jumps_back_repeats_nothing() -> None:
    memory, clock = Memory(), Clock()
    one = scheduler(memory, clock)
    await one.turn()
    for now in (1025.0, 960.0, 1025.0, 1090.0):
        clock.now = now
        assert await one.turn() > 0
    assert memory.fired == [1020.0, 1080.0]


async def test_a_broker_that_is_away_delays_and_ends_nothing() -> None:
    import asyncio

    memory, clock = Memory(), Clock()
    memory.away = 1
    task = asyncio.ensure_future(scheduler(memory, clock).run())
    await auntil(lambda: memory.last)
    task.cancel()
    assert memory.away == 0


async def test_a_schedule_that_cannot_be_fired_keeps_no_other_from_firing(caplog: pytest.LogCaptureFixture) -> None:
    memory, clock = Memory(), Clock()
    fire = memory.fire

    async def fail(schedule: str, *arguments: Any) -> bool:
        if schedule == "bad":
            raise KeyError("price")
        return await fire(schedule, *arguments)

    one = scheduler(memory, clock, Schedule("bad", every(60), Tick()), Schedule("good", every(60), Tick()))
    await one.turn()
    memory.fire = fail
    clock.now = 1020.0
    assert await one.turn() <= 1.0
    assert memory.fired == [1020.0]
    assert [(record.message, record.exc_info is not None) for record in caplog.records] == [("cannot fire bad", True)]


def test_two_schedules_of_one_name_are_refused() -> None:
    with pytest.raises(DefinitionError, match='two schedules are called "s"'):
        scheduler(Memory(), Clock(), Schedule("s", every(60), Tick()), Schedule("s", every(30), Tick()))


async def test_two_schedulers_that_start_around_the_first_slot_lose_it_not() -> None:
    memory, clock = Memory(), Clock()
    first, second = scheduler(memory, clock), scheduler(memory, clock)
    clock.now = 1019.0
    await first.turn()
    clock.now = 1021.0
    await second.turn()
    assert memory.fired == [1020.0]
    await first.turn()
    assert memory.fired == [1020.0]


# --- paused at run time


async def test_a_paused_schedule_passes_over_its_slots_and_goes_on_with_the_next() -> None:
    memory, clock = Memory(), Clock()
    one = scheduler(memory, clock)
    await one.turn()
    memory.want(PAUSED, clock.now)
    for clock.now in (1020.0, 1080.0, 1140.0):
        await one.turn()
    assert memory.fired == []
    clock.now = 1199.0
    memory.want(None, clock.now)
    assert await one.turn() == pytest.approx(1.0)
    clock.now = 1200.0
    await one.turn()
    assert memory.fired == [1200.0]


async def test_slots_from_before_it_went_on_are_passed_over_also_when_they_are_noticed_late() -> None:
    memory, clock = Memory(), Clock()
    one = scheduler(memory, clock)
    await one.turn()
    memory.want(PAUSED, clock.now)
    await one.turn()
    memory.want(None, 1025.0)
    clock.now = 1030.0
    await one.turn()
    assert memory.fired == []


async def test_any_number_of_schedulers_hear_of_a_pause_and_of_its_end() -> None:
    memory, clock = Memory(), Clock()
    both = [scheduler(memory, clock), scheduler(memory, clock)]
    for clock.now in (1000.0, 1020.0):
        for one in both:
            await one.turn()
    memory.want(PAUSED, clock.now)
    both.append(scheduler(memory, clock))  # one that starts later hears of it too
    clock.now = 1080.0
    for one in both:
        await one.turn()
    memory.want(None, clock.now)
    clock.now = 1140.0
    for one in both:
        await one.turn()
    assert memory.fired == [1020.0, 1140.0]


async def test_going_on_without_having_been_paused_takes_no_slot_away() -> None:
    memory, clock = Memory(), Clock()
    one = scheduler(memory, clock)
    await one.turn()
    clock.now = 1020.5
    memory.want(None, 1020.4)
    await one.turn()
    assert memory.fired == [1020.0]


async def test_what_is_wanted_of_others_does_not_concern_a_schedule() -> None:
    memory, clock = Memory(), Clock()
    memory.want(PAUSED, 1000.0, "other")
    memory.wanted.append(Desired(2, "queue:s", PAUSED, "ann", 1000.0))
    one = scheduler(memory, clock)
    await one.turn()
    clock.now = 1020.0
    await one.turn()
    assert memory.fired == [1020.0]
