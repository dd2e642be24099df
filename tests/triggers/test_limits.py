"""What third parties say of their limits, in their dialects; lies and garbage are nothing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chappe.triggers.limits import Told, told

NOW = 1_460_548_800.0  # Wed, 13 Apr 2016 12:00:00 GMT

DIALECTS = {
    "RFC 9110": (429, {"retry-after": "60"}, Told(60.0)),
    "RFC 9110, a date": (503, {"retry-after": "Wed, 13 Apr 2016 12:01:00 GMT"}, Told(60.0)),
    "IETF draft 10": (200, {"ratelimit": '"burst";r=50;t=30', "ratelimit-policy": '"burst";q=100;w=60'}, Told(0.0, 50, None, 30.0)),
    "IETF draft 10, two of which one is spent": (200, {"ratelimit": '"burst";r=9;t=30, "daily";r=0;t=3600'}, Told(3600.0, 0, None, 3600.0)),
    "IETF draft 8": (200, {"ratelimit": "limit=100, remaining=0, reset=50"}, Told(50.0, 0, 100, 50.0)),
    "IETF draft 3": (200, {"ratelimit-limit": "100", "ratelimit-remaining": "7", "ratelimit-reset": "50"}, Told(0.0, 7, 100, 50.0)),
    "GitHub": (
        403,
        {"x-ratelimit-limit": "60", "x-ratelimit-remaining": "0", "x-ratelimit-used": "60", "x-ratelimit-reset": "1460549100"},
        Told(300.0, 0, 60, 300.0),
    ),
    "X, formerly Twitter": (429, {"x-rate-limit-limit": "15", "x-rate-limit-remaining": "0", "x-rate-limit-reset": "1460549700"}, Told(900.0, 0, 15, 900.0)),
    "milliseconds since 1970": (429, {"x-ratelimit-reset": "1460549100000"}, Told(300.0, None, None, 300.0)),
    "Reddit": (200, {"x-ratelimit-remaining": "598.0", "x-ratelimit-used": "2", "x-ratelimit-reset": "300"}, Told(0.0, 598, None, 300.0)),
    "Discord": (
        429,
        {"x-ratelimit-limit": "5", "x-ratelimit-remaining": "0", "x-ratelimit-reset": "1460549100.5", "x-ratelimit-reset-after": "1.25", "x-ratelimit-bucket": "abcd"},
        Told(1.25, 0, 5, 1.25),
    ),
    "OpenAI": (
        429,
        {"x-ratelimit-limit-requests": "60", "x-ratelimit-remaining-requests": "59", "x-ratelimit-reset-requests": "1s",
         "x-ratelimit-limit-tokens": "150000", "x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "6m0s"},
        Told(360.0, 0, 150000, 360.0),
    ),
    "OpenAI, a moment": (200, {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "120ms"}, Told(0.12, 0, None, 0.12)),
    "Anthropic": (
        200,
        {"anthropic-ratelimit-requests-limit": "50", "anthropic-ratelimit-requests-remaining": "0", "anthropic-ratelimit-requests-reset": "2016-04-13T12:00:30Z",
         "anthropic-ratelimit-input-tokens-remaining": "1000", "anthropic-ratelimit-input-tokens-reset": "2016-04-13T12:00:10Z"},
        Told(30.0, 0, 50, 30.0),
    ),
    "Mastodon": (
        429,
        {"x-ratelimit-limit": "300", "x-ratelimit-remaining": "0", "x-ratelimit-reset": "2016-04-13T12:05:00.123456Z"},
        Told(300.123456, 0, 300, 300.123456),
    ),
    "Pocket": (
        403,
        {"x-limit-user-limit": "320", "x-limit-user-remaining": "0", "x-limit-user-reset": "700", "x-limit-key-remaining": "9000", "x-limit-key-reset": "100"},
        Told(700.0, 0, 320, 700.0),
    ),
    "a refusal that says nothing": (429, {}, Told()),
    "a refusal although something is left": (429, {"x-ratelimit-remaining": "5", "x-ratelimit-reset": "60"}, Told(60.0, 5, None, 60.0)),
    "nothing at all": (200, {"content-type": "text/plain"}, Told()),
}  # fmt: skip


@pytest.mark.parametrize("dialect", DIALECTS)
def test_m6_each_dialect_is_read_as_its_server_means_it(dialect: str) -> None:
    status, headers, meant = DIALECTS[dialect]
    found = told(status, headers, NOW)
    assert (found.left, found.limit) == (meant.left, meant.limit)
    assert (found.wait, found.resets) == (pytest.approx(meant.wait), None if meant.resets is None else pytest.approx(meant.resets))


def test_m6_retry_after_goes_before_what_else_is_said() -> None:
    assert told(429, {"retry-after": "5", "x-ratelimit-remaining": "0", "x-ratelimit-reset": "900"}, NOW).wait == 5.0


@pytest.mark.parametrize(
    "headers",
    [
        {"x-ratelimit-reset": value, "x-ratelimit-remaining": "0"}
        for value in (
            "-5",
            "soon",
            "",
            "1e9",
            "nan",
            "inf",
            "9" * 40,
            "99999999",
            "4102444800",
            "0x10",
            "١٢",
            "1460549100,1460549100",
            "s",
            "ms",
        )
    ]
    + [
        {"ratelimit": value}
        for value in ("", "burst;r=0;t=9", '"burst"', '"burst";r=;t=9', '"burst";t=9', "remaining=-1, reset=9", '";;;"')
    ]
    + [{"retry-after": value} for value in ("-1", "never", "99999999999", "Wed, 99 Foo 2016")],
)
def test_m6_lies_and_garbage_close_nothing(headers: dict[str, str]) -> None:
    found = told(429, headers, NOW)
    assert found.wait == 0.0
    assert found.resets is None or found.resets == 0.0


def test_m6_a_window_that_has_ended_closes_nothing() -> None:
    assert told(200, {"x-ratelimit-remaining": "0", "x-ratelimit-reset": "1460548000"}, NOW) == Told(0.0, 0, None, 0.0)


_NAMES = st.sampled_from(sorted({name for _, headers, _ in DIALECTS.values() for name in headers}))
_VALUES = st.text(max_size=30) | st.from_regex(r"[0-9\"rt;=,.smhZ:T -]{0,30}", fullmatch=True)


@given(st.sampled_from([200, 403, 429, 503]), st.dictionaries(_NAMES, _VALUES, max_size=6))
def test_m6_whatever_is_said_is_read_without_an_error_and_within_bounds(status: int, headers: dict[str, str]) -> None:
    found = told(status, headers, NOW)
    assert 0.0 <= found.wait <= 32 * 86400
    assert found.resets is None or 0.0 <= found.resets <= 32 * 86400
    assert found.left is None or found.left >= 0
