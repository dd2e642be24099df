"""The replay gives every action once, in an order that could have happened, within the horizon."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from channel_manager import bookings
from channel_manager.bookings import FIRST_NIGHT, HORIZON_DAYS, PROPERTIES, apply, open_properties, replay, shared_folder
from channel_manager.property import DAY, PropertyDatabase
from channel_manager.sample import sample_csv

SAMPLE = Path(bookings.__file__).with_name("sample_bookings.csv")


@pytest.fixture(params=["sample", "real"])
def path(request: pytest.FixtureRequest) -> Path:
    if request.param == "sample":
        return SAMPLE
    shared = shared_folder()
    if shared is None:
        pytest.skip("the real bookings are in shared/data, which is absent")
    return shared / "data/hotel/hotel_bookings_resort.csv"


def test_the_same_file_gives_the_same_actions(path: Path) -> None:
    assert list(replay(path)) == list(replay(path))


def test_actions_are_in_the_order_of_their_real_days_and_a_cancellation_follows_its_booking(path: Path) -> None:
    actions = list(replay(path))
    assert [one.real_day for one in actions] == sorted(one.real_day for one in actions)
    booked, cancelled = set[int](), set[int]()
    for action in actions:
        if action.kind == "book":
            assert action.booking_id not in booked
            booked.add(action.booking_id)
        elif action.kind == "cancel":
            assert action.booking_id in booked - cancelled
            cancelled.add(action.booking_id)
    assert cancelled


def test_every_stay_is_within_the_horizon_and_every_property_is_one_of_ours(path: Path) -> None:
    for action in replay(path):
        assert FIRST_NIGHT <= action.arrival < action.departure <= FIRST_NIGHT + HORIZON_DAYS * DAY
        assert 1 <= action.property_id <= PROPERTIES


def test_the_bookings_reach_nearly_all_properties(path: Path) -> None:
    assert len(Counter(one.property_id for one in replay(path))) > PROPERTIES * 0.9


def test_all_three_kinds_of_action_happen(path: Path) -> None:
    assert {one.kind for one in replay(path)} == {"book", "cancel", "rate"}


@pytest.mark.parametrize("path", ["real"], indirect=True)
def test_the_real_bookings_are_all_replayed_but_those_without_a_night(path: Path) -> None:
    kinds = Counter(one.kind for one in replay(path))
    assert (kinds["book"], kinds["cancel"]) == (9_999 - 79, 6_171)


def test_replaying_changes_what_is_free_and_what_it_costs(path: Path) -> None:
    with PropertyDatabase(":memory:") as database:
        open_properties(database)
        before = [database.expected(listing) for listing in database.every_listing()]
        assert all(apply(database, action) for action in replay(path))
        after = [database.expected(listing) for listing in database.every_listing()]
        nights = [night for one in after for night in one]
        assert before != after
        assert any(night.free == 0 for night in nights) or path == SAMPLE
        assert any(night.cents != 9_000 for night in nights)


def test_a_cancellation_dated_before_its_booking_follows_it_all_the_same(tmp_path: Path) -> None:
    header, *rows = SAMPLE.read_text(encoding="utf-8").splitlines()
    row = next(row for row in rows if ",Canceled," in row)
    path = tmp_path / "bookings.csv"
    path.write_text("\n".join([header, row.rsplit(",", 1)[0] + ",1/2/2001"]), encoding="utf-8")
    assert [one.kind for one in replay(path) if one.kind != "rate"] == ["book", "cancel"]


def test_the_sample_is_what_its_generator_gives() -> None:
    assert SAMPLE.read_text(encoding="utf-8") == sample_csv()


def test_without_the_shared_data_the_sample_is_replayed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CHAPPE_SHARED", str(tmp_path))
    assert bookings.find_bookings() == SAMPLE
    assert bookings.find_schema() is None
