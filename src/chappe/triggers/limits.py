"""How often a third party may be called, as it says itself in the headers of its answers, in their dialects. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Final

from msgspec import Struct

from chappe.triggers.pace import date, retry_after

_FURTHEST: Final = 32 * 86400.0  # no window is longer than a month: what is said beyond is a lie, or a misunderstanding
_EPOCH: Final = 1e8  # a number of seconds that large is a time since 1970
_MOST: Final = 10**9
_NUMBER: Final = re.compile(r"\d{1,15}(?:\.\d{1,9})?", re.ASCII)
_SPAN: Final = re.compile(r"(?:(\d{1,6})h)?(?:(\d{1,6})m(?!s))?(?:(\d{1,9}(?:\.\d{1,9})?)s)?(?:(\d{1,9}(?:\.\d{1,9})?)ms)?", re.ASCII)
_ITEM: Final = re.compile(r'"[^"]*"((?:\s*;\s*[a-z]+\s*=\s*[^;,"]+)+)')
_PARAMETER: Final = re.compile(r"([a-z]+)\s*=\s*(\d+)", re.ASCII)
_NAMES: Final = re.compile(
    r"(?:x-)?(?:rate-?limit|rate-limit)-(?P<part>limit|remaining|reset|reset-after)(?P<scope>-requests|-tokens)?"
    r"|anthropic-ratelimit(?P<other>-[a-z-]+)-(?P<part2>limit|remaining|reset)"
    r"|x-limit-(?P<third>user|key)-(?P<part3>limit|remaining|reset)"
)


class Told(Struct, frozen=True):
    """What an answer says: `wait` are the seconds in which nothing may be called, 0 for none.

    `left` calls remain of `limit` until the window ends in `resets` seconds, as far as that is said, of the tightest limit.
    """

    wait: float = 0.0
    left: int | None = None
    limit: int | None = None
    resets: float | None = None


class _Limit:
    def __init__(self) -> None:
        self.left: int | None = None
        self.limit: int | None = None
        self.resets: float | None = None


def told(status: int, headers: Mapping[str, str], now: float) -> Told:
    """Return what the headers of an answer say, in lower case, whose names are read as others write them; what is malformed is nothing.

    `Retry-After` goes before everything else. A limit that is used up, or that refused with 429, closes until it resets.
    """
    limits = [*_standard(headers.get("ratelimit", "")), *_named(headers, now)]
    asked = retry_after(headers.get("retry-after", ""), now)
    spent = [one.resets for one in limits if one.resets is not None and (one.left == 0 or (status == 429 and one.left is None))]
    if status == 429 and not spent:  # it says that something is left, and refuses all the same
        spent = [one.resets for one in limits if one.resets is not None]
    wait = asked if 0 < asked <= _FURTHEST else max(spent, default=0.0)
    tightest = min(limits, key=lambda one: math.inf if one.left is None else one.left, default=None)
    return Told(wait) if tightest is None else Told(wait, tightest.left, tightest.limit, tightest.resets)


def _standard(value: str) -> Iterator[_Limit]:
    """Read `RateLimit` as the drafts of the IETF have it: `"burst";r=50;t=30`, and before `limit=100, remaining=50, reset=30`."""
    found = [dict(_PARAMETER.findall(parameters)) for parameters in _ITEM.findall(value)]
    if not found:
        given = dict(_PARAMETER.findall(value))
        found = [{short: given[long] for long, short in _OLD if long in given}]
    for one in found:
        if "r" in one:
            limit = _Limit()
            limit.left, limit.limit, limit.resets = _count(one["r"]), _count(one.get("q", "")), _within(_number(one.get("t", "")))
            yield limit


_OLD: Final = (("remaining", "r"), ("limit", "q"), ("reset", "t"))


def _named(headers: Mapping[str, str], now: float) -> list[_Limit]:
    """Read one header for each figure: of GitHub, Reddit, Discord, OpenAI, Anthropic, Mastodon, Pocket and others."""
    found: dict[str, _Limit] = {}
    for name, value in headers.items():
        match = _NAMES.fullmatch(name)
        if match is None:
            continue
        part = match["part"] or match["part2"] or match["part3"]
        limit = found.setdefault(match["scope"] or match["other"] or match["third"] or "", _Limit())
        if part == "limit":
            limit.limit = _count(value)
        elif part == "remaining":
            limit.left = _count(value)
        elif part == "reset-after" or limit.resets is None:  # Discord says both, and the seconds need no clock
            limit.resets = _moment(value.strip(), now)
    return [one for one in found.values() if one.left is not None or one.resets is not None]


def _moment(value: str, now: float) -> float | None:
    """Return in how many seconds something is that is written as a date, a time since 1970, seconds, or `1m30s`."""
    number = _number(value)
    if number is not None:
        number = number / 1000 if number > _EPOCH * 1000 else number
        return _within(number - now if number > _EPOCH else number)
    if span := _SPAN.fullmatch(value) if value else None:
        hours, minutes, seconds, milliseconds = (float(part or 0) for part in span.groups())
        return _within(hours * 3600 + minutes * 60 + seconds + milliseconds / 1000)
    moment = date(value)
    return None if moment is None else _within(moment - now)


def _number(value: str) -> float | None:
    return float(value) if _NUMBER.fullmatch(value.strip()) else None


def _count(value: str) -> int | None:
    number = _number(value)
    return int(number) if number is not None and number <= _MOST else None


def _within(seconds: float | None) -> float | None:
    """Return seconds that can be meant: what is over is 0, what is too far is nothing."""
    return None if seconds is None or seconds > _FURTHEST else max(0.0, seconds)
