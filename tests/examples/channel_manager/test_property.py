"""The back office's database keeps what it was told, for many threads and processes at once."""

from __future__ import annotations

import datetime as dt
import multiprocessing
import os
import sqlite3
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from channel_manager.bookings import FIRST_NIGHT
from channel_manager.property import DAY, Listing, Night, PropertyDatabase


def day(n: int) -> dt.date:
    return FIRST_NIGHT + n * DAY


def free(database: PropertyDatabase, nights: int = 5) -> list[int]:
    return [night.free for night in database.availability(1, FIRST_NIGHT, nights)]


def test_a_booking_takes_its_nights_but_not_the_day_of_departure(database: PropertyDatabase) -> None:
    assert database.book(1, 1, day(1), day(3))
    assert free(database) == [2, 1, 1, 2, 2]


def test_a_stay_that_begins_before_the_period_and_ends_after_it_counts_inside(database: PropertyDatabase) -> None:
    database.book(1, 1, day(-5), day(50))
    assert free(database) == [1, 1, 1, 1, 1]


def test_a_cancelled_booking_gives_its_nights_back_once(database: PropertyDatabase) -> None:
    database.book(1, 1, day(0), day(2))
    assert database.cancel(1)
    assert not database.cancel(1)
    assert not database.cancel(99)
    assert free(database) == [2, 2, 2, 2, 2]


def test_an_overbooked_night_has_nothing_free_and_stays_so_until_the_surplus_is_gone(database: PropertyDatabase) -> None:
    for booking in (1, 2, 3):
        database.book(booking, 1, day(0), day(1))
    assert free(database, 1) == [0]
    database.cancel(1)
    assert free(database, 1) == [0]
    database.cancel(2)
    assert free(database, 1) == [1]


def test_a_booking_that_is_taken_again_changes_nothing(database: PropertyDatabase) -> None:
    assert database.book(1, 1, day(0), day(1))
    assert not database.book(1, 1, day(0), day(4))
    assert free(database) == [1, 2, 2, 2, 2]


def test_a_cancelled_booking_does_not_come_back_when_it_is_taken_again(database: PropertyDatabase) -> None:
    database.book(1, 1, day(0), day(1))
    database.cancel(1)
    assert not database.book(1, 1, day(0), day(1))
    assert free(database, 1) == [2]


def test_a_price_holds_for_its_nights_and_the_usual_one_for_the_others(database: PropertyDatabase) -> None:
    database.set_rate(1, day(1), 2, 12_000)
    database.set_rate(1, day(2), 1, 15_000)
    assert database.availability(1, FIRST_NIGHT, 4) == [
        Night(day(0), 2, 9_000),
        Night(day(1), 2, 12_000),
        Night(day(2), 2, 15_000),
        Night(day(3), 2, 9_000),
    ]


def test_an_unknown_property_is_an_error_and_can_not_be_booked(database: PropertyDatabase) -> None:
    with pytest.raises(LookupError, match="property 7 is unknown"):
        database.availability(7, FIRST_NIGHT, 1)
    with pytest.raises(sqlite3.IntegrityError):
        database.book(1, 7, day(0), day(1))
    assert database.book(1, 1, day(0), day(1)), "the failed transaction was rolled back"


def test_a_stay_of_no_night_is_refused(database: PropertyDatabase) -> None:
    with pytest.raises(sqlite3.IntegrityError):
        database.book(1, 1, day(3), day(3))


def test_a_new_channel_is_only_a_new_row(database: PropertyDatabase) -> None:
    database.offer(Listing("zephyr", "z-1", 1, 3))
    assert [one.channel for one in database.listings(1)] == ["alpine", "ical", "nimbus", "zephyr"]
    assert len(database.expected(database.listings(1)[-1])) == 3


def test_a_confirmation_is_taken_once_and_only_for_a_push_that_was_sent(database: PropertyDatabase) -> None:
    assert database.sent("m1", "nimbus", "nimbus-1") == 1
    assert database.sent("m1", "nimbus", "nimbus-1") == 2
    assert database.confirm("m1", "ok")
    assert not database.confirm("m1", "refused", "E410")
    assert not database.confirm("never sent", "ok")
    [push] = database.pushes()
    assert (push.status, push.attempts, push.code) == ("ok", 2, None)


def test_a_listing_refused_as_gone_is_closed(database: PropertyDatabase) -> None:
    database.sent("m1", "nimbus", "nimbus-1")
    assert database.confirm("m1", "refused", "E410")
    assert [one.channel for one in database.listings(1)] == ["alpine", "ical"]
    assert {one.channel: one.status for one in database.every_listing()}["nimbus"] == "closed"


def test_only_confirmed_pushes_are_forgotten(database: PropertyDatabase) -> None:
    for message in ("m1", "m2"):
        database.sent(message, "nimbus", "nimbus-1")
    database.confirm("m1", "ok")
    assert database.forget_pushes(time.time() + 1) == 1
    assert [push.message_id for push in database.pushes("sent")] == ["m2"]
    assert database.pushes(before=0.0) == []


def test_what_was_written_is_there_after_the_file_is_opened_again(database: PropertyDatabase) -> None:
    database.book(1, 1, day(0), day(1))
    with PropertyDatabase(database.path) as again:
        assert free(again, 1) == [1]
        assert [one.name for one in again.properties()] == ["House 1"]


@given(st.lists(st.tuples(st.integers(-3, 12), st.integers(1, 6), st.booleans()), max_size=12))
def test_availability_is_what_counting_night_by_night_gives(stays: list[tuple[int, int, bool]]) -> None:
    with PropertyDatabase(":memory:") as database:
        database.create(1, "House", 3, 100, FIRST_NIGHT)
        for number, (arrival, nights, cancelled) in enumerate(stays):
            database.book(number, 1, day(arrival), day(arrival + nights))
            if cancelled:
                database.cancel(number)
        taken = [sum(a <= n < a + length for a, length, cancelled in stays if not cancelled) for n in range(10)]
        assert free(database, 10) == [max(0, 3 - count) for count in taken]


def _book_many(path: Path, first_id: int) -> None:
    with PropertyDatabase(path) as database:
        database.create(1, "House 1", 1_000, 100, FIRST_NIGHT)
        for number in range(first_id, first_id + 50):
            database.book(number, 1, day(0), day(1))
            database.availability(1, FIRST_NIGHT, 30)


def test_processes_that_create_the_file_together_lose_no_booking(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    path = tmp_path / "together.db"
    processes = [spawn.Process(target=_book_many, args=(path, n * 100)) for n in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0, 0]
    with PropertyDatabase(path) as database:
        assert free(database, 1) == [1_000 - 200]


def test_threads_share_one_database(database: PropertyDatabase) -> None:
    def book(first_id: int) -> None:
        for number in range(first_id, first_id + 30):
            database.book(number, 1, day(0), day(1))

    threads = [threading.Thread(target=book, args=(n * 100,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    database.create(1, "House 1", 121, 9_000, FIRST_NIGHT)
    assert free(database, 1) == [1]


def test_a_child_after_a_fork_opens_a_connection_of_its_own(database: PropertyDatabase) -> None:
    def opened() -> int:
        return sum(os.path.realpath(entry.path) == str(database.path) for entry in os.scandir("/proc/self/fd"))

    before = opened()
    child = os.fork()
    if child == 0:
        done = database.book(1, 1, day(0), day(1))
        os._exit(0 if done and opened() == before + 1 else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert free(database, 1) == [1]
