"""Schedules: the slots of cron and every, with DST, and what becomes of missed ones."""

import datetime
import functools
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from chappe import Command, cron, every
from chappe.errors import DefinitionError
from chappe.triggers.schedule import Schedule, Trigger, due

PARIS = ZoneInfo("Europe/Paris")


class Tick(Command, queue="q"):
    pass


def at(text: str, zone: ZoneInfo | datetime.timezone = datetime.UTC) -> float:
    return datetime.datetime.fromisoformat(text).replace(tzinfo=zone).timestamp()


def slots(expression: str, start: float, count: int, zone: str = "Europe/Paris") -> list[str]:
    trigger, found = cron(expression, zone), list[str]()
    for _ in range(count):
        start = trigger.after(start)
        found.append(datetime.datetime.fromtimestamp(start, ZoneInfo(zone)).isoformat(timespec="minutes"))
    return found


def test_cron_counts_in_its_time_zone() -> None:
    assert slots("0 4 * * *", at("2026-01-10T12:00"), 2) == ["2026-01-11T04:00+01:00", "2026-01-12T04:00+01:00"]
    assert cron("0 4 * * *").after(at("2026-01-10T12:00")) == at("2026-01-11T04:00")


def test_a_time_that_the_change_to_summer_skips_has_one_slot() -> None:
    """On 29 March 2026 Paris goes from 02:00 to 03:00."""
    found = slots("30 2 * * *", at("2026-03-27T12:00", PARIS), 4)
    assert [slot[:10] for slot in found] == ["2026-03-28", "2026-03-29", "2026-03-30", "2026-03-31"]
    assert found[0].endswith("02:30+01:00")
    assert found[1].endswith("+02:00")
    assert found[2].endswith("02:30+02:00")


def test_a_time_that_the_change_to_winter_repeats_has_one_slot() -> None:
    """On 25 October 2026 Paris goes from 03:00 to 02:00."""
    found = slots("30 2 * * *", at("2026-10-23T12:00", PARIS), 4)
    assert [slot[:10] for slot in found] == ["2026-10-24", "2026-10-25", "2026-10-26", "2026-10-27"]


def test_an_hourly_schedule_keeps_its_pace_through_both_changes() -> None:
    for day in ("2026-03-29T00:30", "2026-10-25T00:30"):
        start = at(day, PARIS)
        trigger, found = cron("0 * * * *", "Europe/Paris"), list[float]()
        for _ in range(5):
            start = trigger.after(start)
            found.append(start)
        assert {round(b - a) for a, b in zip(found, found[1:], strict=False)} == {3600}


@pytest.mark.parametrize(("alias", "slot"), [("@daily", "2026-01-11T00:00"), ("@hourly", "2026-01-10T13:00"), ("@monthly", "2026-02-01T00:00"),
                                             ("@weekly", "2026-01-11T00:00"), ("@yearly", "2027-01-01T00:00")])  # fmt: skip
def test_the_usual_names_of_schedules(alias: str, slot: str) -> None:
    assert cron(alias).after(at("2026-01-10T12:34")) == at(slot)


@pytest.mark.parametrize("expression", ["", "* * * *", "61 * * * *", "@never", "0 25 * * *", "every day"])
def test_a_wrong_expression_is_refused_with_the_order_of_fields(expression: str) -> None:
    with pytest.raises(DefinitionError, match="minute hour day month weekday"):
        cron(expression)


@pytest.mark.parametrize("zone", ["Europe/Atlantis", "", "../etc/passwd"])
def test_an_unknown_time_zone_is_refused(zone: str) -> None:
    with pytest.raises(DefinitionError, match="no time zone is called"):
        cron("0 4 * * *", zone)


def test_every_has_the_same_slots_for_all_schedulers() -> None:
    trigger = every(0.5)
    assert trigger.after(100.0) == 100.5
    assert trigger.after(100.2) == 100.5
    assert trigger.after(100.499999) == 100.5


@pytest.mark.parametrize("seconds", [0.1, 0.3, 0.7, 1 / 3, 86400.0])
def test_every_always_moves_on(seconds: float) -> None:
    trigger, moment = every(seconds), 1_790_000_000.123
    for _ in range(1000):
        following = trigger.after(moment)
        assert following > moment
        assert following - moment <= seconds * 1.01
        moment = following


@pytest.mark.parametrize("seconds", [0.1, 0.2, 0.3, 0.7, 1 / 3, 1.1, 0.9, 2.5, 3600 * 1.1, 86400.0, 1e9])
def test_every_slot_comes_once_wherever_one_begins_to_count(seconds: float) -> None:
    """Rounding once gave a slot two values, and it fired for each."""
    trigger, start = every(seconds), 1_790_000_000.0
    first = round(trigger.after(start) / seconds)
    slots = list[float]()
    moment = start
    for _ in range(20_000):
        slots.append(moment := trigger.after(moment))
    assert slots == [n * seconds for n in range(first, first + 20_000)]
    assert [trigger.after(slot - seconds / 2) for slot in slots] == slots


@pytest.mark.parametrize("seconds", [0, -1, 0.05])
def test_every_is_not_for_busy_loops(seconds: float) -> None:
    with pytest.raises(DefinitionError, match="at least 0.1"):
        every(seconds)


class Tides(Trigger, frozen=True):
    """A trigger of an application."""

    port: Any

    def after(self, moment: float) -> float:
        return moment + 1


class Harbour:
    pass


class Known(Harbour):
    def __repr__(self) -> str:
        return "Known()"


@pytest.mark.parametrize(
    ("port", "text"),
    [
        ("Brest", 'Tides{"port":"Brest"}'),
        (frozenset("cab"), 'Tides{"port":["a","b","c"]}'),
        (PARIS, """Tides{"port":"zoneinfo.ZoneInfo(key='Europe/Paris')"}"""),
        (at, 'Tides{"port":"tests.triggers.test_schedule.at"}'),
        (Harbour, 'Tides{"port":"tests.triggers.test_schedule.Harbour"}'),
        (Known(), 'Tides{"port":"Known()"}'),
    ],
)
def test_a_trigger_of_an_application_is_known_by_its_class_and_fields_in_each_process(port: object, text: str) -> None:
    assert Schedule("s", Tides(port), Tick()).definition == f"{text} misfire=once"


@pytest.mark.parametrize("port", [Harbour(), lambda: 1, [Harbour()], {"a": functools.partial(at, "x")}, Harbour().__str__])
def test_a_trigger_that_would_be_another_one_in_each_process_is_refused(port: object) -> None:
    with pytest.raises(DefinitionError, match="a trigger is known by its text, and .* is another one in each process"):
        Schedule("s", Tides(port), Tick())


def test_an_unknown_misfire_is_refused() -> None:
    with pytest.raises(DefinitionError, match="must be once, skip or all"):
        Schedule("s", every(60), Tick(), misfire="twice")


@pytest.mark.parametrize(
    ("misfire", "last", "now", "fired"),
    [
        ("once", 0, 59, []),
        ("once", 0, 60, [60]),
        ("once", 0, 100, [60]),
        ("once", 0, 600, [540, 600]),
        ("once", 0, 650, [600]),
        ("skip", 0, 650, [600]),
        ("all", 0, 300, [60, 120, 180, 240, 300]),
    ],
)
def test_slots_that_are_due(misfire: str, last: float, now: float, fired: list[float]) -> None:
    assert due(Schedule("s", every(60), Tick(), misfire=misfire), last, now) == fired


@pytest.mark.parametrize(("misfire", "fired"), [("once", [3 * 86400]), ("skip", []), ("all", [86400, 2 * 86400, 3 * 86400])])
def test_slots_missed_while_nothing_ran(misfire: str, fired: list[float]) -> None:
    schedule = Schedule("s", every(86400), Tick(), misfire=misfire)
    assert due(schedule, 0, 3 * 86400 + 7200) == fired


@pytest.mark.parametrize("misfire", ["once", "skip"])
def test_after_a_long_absence_the_newest_slot_counts(misfire: str) -> None:
    """More slots were missed than are ever looked at: the schedule goes on with the present."""
    now = 1_790_000_000.0
    fired = due(Schedule("s", every(1), Tick(), misfire=misfire), now - 86400, now)
    assert fired, "a schedule that was away for a day fires again"
    assert fired[-1] >= now - 60


def test_all_is_limited_to_a_thousand_at_a_time() -> None:
    fired = due(Schedule("s", every(1), Tick(), misfire="all"), 0, 100_000)
    assert fired == [float(n) for n in range(1, 1001)]


def test_a_clock_that_went_back_fires_nothing_twice() -> None:
    assert due(Schedule("s", every(60), Tick()), last=600, now=300) == []
