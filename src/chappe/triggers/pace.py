"""When a source is asked again: by how busy it is, and never sooner than its server allows. Pure."""

from __future__ import annotations

import datetime
import email.utils
import math
import re
from collections.abc import Mapping
from typing import Final

WEEK: Final = 7 * 86400.0
LEAST: Final = 300.0
MOST: Final = 86400.0


def decayed(rate: float, seconds: float, new: int) -> float:
    """Return the items in a week that a source has, after `new` more were found, `seconds` after the last look."""
    return rate * math.exp(-max(0.0, seconds) / WEEK) + new


def interval(rate: float, failures: int = 0, least: float = LEAST, most: float = MOST) -> float:
    """Return the seconds until the next look at a source of so many items in a week: about as long as one item takes to come.

    After failures it is twice as long each time, within the same bounds.
    """
    calm = WEEK / rate if rate > 0 else most
    return min(most, max(least, calm) * 2.0 ** min(failures, 20))


def not_before(headers: Mapping[str, str], now: float, most: float = MOST) -> float:
    """Return the seconds for which a server asks not to be asked again, at most `most`; what cannot be read counts as nothing.

    The names of `headers` are in lower case.
    """
    found = [retry_after(headers.get("retry-after", ""), now), _fresh_for(headers, now)]
    return min(most, max(found))


def retry_after(value: str, now: float) -> float:
    """Return the seconds that a `Retry-After` names, as a number or a date; 0 for anything else."""
    value = value.strip()
    if re.fullmatch(r"\d{1,9}(?:\.\d{1,9})?", value, re.ASCII):
        return float(value)
    moment = date(value)
    return 0.0 if moment is None else max(0.0, moment - now)


def date(value: str) -> float | None:
    """Return the moment that a date of HTTP or RFC 3339 names, in seconds since the epoch."""
    try:
        found = datetime.datetime.fromisoformat(value) if value[:4].isdigit() else email.utils.parsedate_to_datetime(value)
        return (found if found.tzinfo else found.replace(tzinfo=datetime.UTC)).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None


def _fresh_for(headers: Mapping[str, str], now: float) -> float:
    control = headers.get("cache-control", "").lower()
    if re.search(r"\bno-(?:store|cache)\b", control):
        return 0.0
    if age := re.search(r"\bmax-age\s*=\s*\"?(\d{1,9})", control, re.ASCII):
        return float(age[1])
    expires = date(headers.get("expires", ""))
    return 0.0 if expires is None else max(0.0, expires - now)
