"""How often a source is asked: by how busy it is, and never sooner than its server allows."""

import pytest

from chappe.triggers.pace import LEAST, MOST, WEEK, date, decayed, interval, not_before, retry_after

NOW = 1_460_548_800.0  # Wed, 13 Apr 2016 12:00:00 GMT


@pytest.mark.parametrize(("rate", "seconds"), [(0.0, MOST), (1.0, MOST), (14.0, WEEK / 14), (1e9, LEAST)])
def test_t25_the_interval_is_about_what_one_item_takes_within_bounds(rate: float, seconds: float) -> None:
    assert interval(rate) == seconds


def test_a_rate_is_forgotten_within_weeks() -> None:
    assert decayed(100.0, 0.0, 3) == 103.0
    assert decayed(100.0, WEEK, 0) == pytest.approx(36.8, abs=0.1)
    assert decayed(100.0, -5.0, 0) == 100.0  # the clock was set back


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120.0),
        (" 0 ", 0.0),
        ("1.5", 1.5),
        ("Wed, 13 Apr 2016 12:01:00 GMT", 60.0),
        ("Wed, 13 Apr 2016 11:00:00 GMT", 0.0),
        ("2016-04-13T12:01:00Z", 60.0),
        ("-5", 0.0),
        ("soon", 0.0),
        ("", 0.0),
        ("9" * 400, 0.0),
        ("١٢", 0.0),
        ("nan", 0.0),
        ("Wed, 99 Foo 2016 12:01:00 GMT", 0.0),
    ],
)
def test_retry_after_is_a_number_or_a_date_and_garbage_is_nothing(value: str, seconds: float) -> None:
    assert retry_after(value, NOW) == seconds


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, 0.0),
        ({"cache-control": "max-age=600, public"}, 600.0),
        ({"cache-control": 'max-age="600"'}, 600.0),
        ({"cache-control": "no-cache, max-age=600"}, 0.0),
        ({"cache-control": "s-maxage=900, max-age=600"}, 600.0),
        ({"cache-control": "max-age=31536000"}, MOST),
        ({"cache-control": "max-age=600", "expires": "Wed, 13 Apr 2016 13:00:00 GMT"}, 600.0),
        ({"expires": "Wed, 13 Apr 2016 12:10:00 GMT"}, 600.0),
        ({"expires": "0"}, 0.0),
        ({"expires": "-1"}, 0.0),
        ({"retry-after": "900", "cache-control": "max-age=600"}, 900.0),
        ({"retry-after": "999999999"}, MOST),
    ],
)
def test_what_a_server_says_is_believed_for_a_day_at_most(headers: dict[str, str], seconds: float) -> None:
    assert not_before(headers, NOW) == seconds


@pytest.mark.parametrize("value", ["", "x", "2016", "2016-99-99", "Mon", "1e5", "\x00", "Wed, 13 Apr 99999999999 12:00:00 GMT"])
def test_what_is_no_date_is_none(value: str) -> None:
    assert date(value) is None
