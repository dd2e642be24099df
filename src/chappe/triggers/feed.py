"""A feed as a source: what is remembered of it between two polls, and what of an answer is new. It asks nobody itself."""

from __future__ import annotations

import calendar
import functools
import hashlib
import html
import io
import math
import re
import threading
import urllib.parse
import xml.sax
import xml.sax.handler
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

import defusedxml.common
import defusedxml.expatreader
import feedparser
from msgspec import Struct
from msgspec.structs import replace

from chappe.triggers.pace import WEEK, decayed, interval, not_before

_REMEMBERED: Final = 1000  # ids beyond those of the newest document
_TAG: Final = re.compile(r"<(/?[a-zA-Z0-9]++|[!?])[^<>]*+>?")  # also one that does not end; never looked through twice
_UNSEEN: Final = frozenset({"script", "style", "template"})
_WITHIN_A_LINE: Final = frozenset({"a", "abbr", "b", "code", "em", "i", "q", "s", "small", "span", "strong", "sub", "sup", "u", *_UNSEEN})
_LONGEST_TROUBLE: Final = 300
_reading: Final = threading.Lock()
_COMMON: Final = 256 * 1024  # bytes of a document that is kept in case that others follow it too
_LIBRARY: Any = feedparser  # it has no types
_HARMLESS: Final = (feedparser.CharacterEncodingOverride, feedparser.NonXMLContentType)
_PERIODS: Final = {"hourly": 3600.0, "daily": 86400.0, "weekly": WEEK, "monthly": 30 * 86400.0, "yearly": 365 * 86400.0}


class Feed(Struct, frozen=True):
    """What is remembered of a feed between two polls, to be kept with what its items became: `msgspec.json` writes and reads it.

    `trouble` is a sentence for its owner, empty where all is well; `failures` counts the polls since the last that could be read.
    `rate` is how many items it has in a week.
    """

    url: str
    etag: str = ""
    modified: str = ""
    digest: str = ""
    seen: tuple[str, ...] = ()
    polled_at: float = 0.0
    next_poll: float = 0.0
    rate: float = 0.0
    failures: int = 0
    trouble: str = ""


class Item(Struct, frozen=True):
    """One entry of a feed; without a date, or with one in the future, it is of the moment at which it was found."""

    id: str
    title: str
    link: str
    summary: str
    published: float


class Answer(Struct, frozen=True):
    """What the server of a feed said, with the names of its headers in lower case; `moved_to` is where the feed is for good."""

    status: int
    headers: Mapping[str, str] = {}
    body: bytes = b""
    moved_to: str | None = None


class _Document(Struct, frozen=True):
    """What is read of an answer, whoever asks: items as they are written there, the newest first and dated never where there is no date."""

    items: tuple[Item, ...]
    trouble: str
    ttl: float


class Poll(Struct, frozen=True):
    """What a poll found: the new items, oldest first, and the feed as it is to be remembered, both or neither."""

    feed: Feed
    items: tuple[Item, ...] = ()


def conditions(feed: Feed) -> dict[str, str]:
    """Return the headers by which a server can say that nothing has changed."""
    asked = {"if-none-match": feed.etag, "if-modified-since": feed.modified}
    return {name: value for name, value in asked.items() if value}


def failed(feed: Feed, trouble: str, now: float, pause: float = 0.0) -> Poll:
    """Return the poll of a feed that could not be read, and is asked again later each time, not before `pause` seconds."""
    failures = feed.failures + 1
    rate = _rate(feed, now, 0)
    due = now + max(pause, interval(rate if feed.digest else math.inf, failures))  # how busy it is is not known before it was read
    sentence = trouble if len(trouble) <= _LONGEST_TROUBLE else f"{trouble[: _LONGEST_TROUBLE - 1]}…"
    return Poll(replace(feed, polled_at=now, rate=rate, next_poll=due, failures=failures, trouble=sentence))


def read(feed: Feed, answer: Answer, now: float) -> Poll:
    """Return what is new in an answer, each item once whatever the server repeats."""
    pause = not_before(answer.headers, now)
    if answer.status == 304:
        return _settled(feed, now, pause)
    if answer.status >= 300 or answer.status < 200:
        return failed(feed, _refusal(answer.status, pause), now, pause)
    here = feed if answer.moved_to is None else replace(feed, url=answer.moved_to)
    digest = hashlib.blake2s(answer.body, digest_size=16).hexdigest()
    if digest == feed.digest:
        return _settled(_validated(here, answer), now, pause)
    # Without the address of the document: ids would be made relative to it, and be others where it moves.
    found = _read_once(answer.body, answer.headers.get("content-type", "application/xml"))
    if isinstance(found, str):
        return failed(feed, found, now, pause)
    fresh, seen = _fresh(found.items, here, now)
    recent = sum(item.published > now - WEEK for item in fresh)
    known = replace(_validated(here, answer), seen=seen, digest=digest, trouble=found.trouble)
    return Poll(_settled(known, now, max(pause, found.ttl), recent).feed, fresh)


def _settled(feed: Feed, now: float, pause: float, new: int = 0) -> Poll:
    rate = _rate(feed, now, new)
    trouble = feed.trouble if not feed.failures else ""
    return Poll(replace(feed, polled_at=now, rate=rate, next_poll=now + max(pause, interval(rate)), failures=0, trouble=trouble))


def _rate(feed: Feed, now: float, new: int) -> float:
    return decayed(feed.rate, now - feed.polled_at, new) if feed.polled_at else float(new)


def _validated(feed: Feed, answer: Answer) -> Feed:
    return replace(feed, etag=answer.headers.get("etag", ""), modified=answer.headers.get("last-modified", ""))


def _refusal(status: int, pause: float) -> str:
    match status:
        case 410:
            return "The feed is gone for good (410): switch the trigger off, or give it another address."
        case 429 | 503:
            later = f" for {pause:.0f} s" if pause else ""
            return f"The server asks to be left alone{later} ({status}); it is asked again later."
        case 401 | 403:
            return f"The server refuses us ({status}): does the feed need a password?"
        case 404:
            return "There is no feed at this address (404): is it right?"
        case _:
            return f"The server answered {status} in place of a feed; it is asked again later."


def _read_once(body: bytes, content_type: str) -> _Document | str:
    """Return the document; of those that several threads read at once, each is read by one and found by the others."""
    if len(body) > _COMMON:
        return _document.__wrapped__(body, content_type)
    with _reading:  # one after the other is as quick: the parser is Python
        return _document(body, content_type)


@functools.lru_cache(64)  # many users follow the same feed, and reading it costs more than everything else of a poll
def _document(body: bytes, content_type: str) -> _Document | str:
    """Return the document, or a sentence that says why it is none."""
    said = {"content-type": content_type}
    if (bomb := _bomb(body, said)) is not None:
        return bomb
    try:
        # What is kept is made plain text: safe HTML with absolute links would take twice as long. A stream: a text could be a path.
        without = {"sanitize_html": False, "resolve_relative_uris": False}
        found: Any = _LIBRARY.parse(io.BytesIO(body), response_headers=said, **without)
    except Exception as error:  # a parser of others' documents: one feed must not stop the others
        return f"The feed cannot be read: {type(error).__name__}: {error}"
    if not found.get("version") and not found.entries:
        page = re.search(rb"<html[\s>]|<!doctype html", body[:2000], re.IGNORECASE)
        return (
            f"There is no feed at this address, but {'a web page' if page else 'something else'}: give the trigger the feed's own address."
        )
    return _Document(tuple(map(_item, found.entries)), _oddity(found), _ttl(found.feed))


def _bomb(body: bytes, said: dict[str, str]) -> str | None:
    """Return why a document must not be expanded: one that defines entities can be a thousand times as large as it looks."""
    result: dict[str, Any] = {}
    try:
        data = cast("bytes", _LIBRARY.encodings.convert_to_utf8(said, body, result))  # what the parser will see
        reader = defusedxml.expatreader.DefusedExpatParser(forbid_dtd=False, forbid_entities=True, forbid_external=False)
        reader.setFeature(xml.sax.handler.feature_external_ges, False)
        reader.parse(io.BytesIO(data))
    except defusedxml.common.EntitiesForbidden:
        return "The feed defines XML entities of its own, which is how feeds are made to explode; it is not read."
    except (xml.sax.SAXException, ValueError, LookupError):
        return None  # what is not well-formed is read as far as it goes, without entities
    return None


def _oddity(found: Any) -> str:
    """Return what its owner should know of a feed that can be read all the same."""
    error = found.get("bozo_exception") if found.get("bozo") else None
    if error is None or isinstance(error, _HARMLESS):
        return ""
    said = error.getMessage() if isinstance(error, xml.sax.SAXException) else str(error)
    line = f" in line {error.getLineNumber()}" if isinstance(error, xml.sax.SAXParseException) else ""
    return f"The feed is not well-formed ({said or type(error).__name__}{line}); it was read as far as it goes."[:_LONGEST_TROUBLE]


def _fresh(written: Sequence[Item], feed: Feed, now: float) -> tuple[tuple[Item, ...], tuple[str, ...]]:
    """Return the items that were not seen, oldest first, and all ids to remember: those of this document, and the latest before."""
    known, here, items = frozenset(feed.seen), dict[str, None](), list[Item]()
    for item in reversed(written):  # documents begin with the newest
        short = hashlib.blake2s(item.id.encode(errors="replace"), digest_size=9).hexdigest() if item.id else ""
        if not short or short in here:
            continue
        here[short] = None
        if short not in known:
            items.append(replace(item, link=_address(feed.url, item.link), published=min(now, item.published)))
    before = [one for one in feed.seen if one not in here][-_REMEMBERED:]
    return tuple(sorted(items, key=lambda item: item.published)), (*before, *here)


def _item(entry: Any) -> Item:
    title, summary, link = (str(entry.get(name) or "") for name in ("title", "summary", "link"))
    dates: dict[str, Any] = {**entry}  # its own get guesses, and warns
    moments = (_moment(dates.get(name)) for name in ("published_parsed", "updated_parsed"))
    moment = next((moment for moment in moments if moment is not None), math.inf)
    identity = str(entry.get("id") or "") or link or f"{title}\n{summary}".strip()
    return Item(identity, _plain(title, entry.get("title_detail")), link, _plain(summary, entry.get("summary_detail")), moment)


def _plain(written: str, detail: dict[str, Any] | None) -> str:
    """Return plain text, whether it is declared to be text or HTML: what a reader would see of it, and no tag."""
    if "html" not in str((detail or {}).get("type")):
        return written
    seen, hidden = list[str](), ""
    for place, part in enumerate(_TAG.split(written)):  # what is between two tags, the name of the tag behind it, and so on
        if place % 2 == 0:
            seen += [] if hidden else [html.unescape(part)]
            continue
        name = part.lower()
        if hidden:
            hidden = "" if name == f"/{hidden}" else hidden
        elif name in _UNSEEN:
            hidden = name
        seen += [] if name.lstrip("/") in _WITHIN_A_LINE else [" "]
    return " ".join("".join(seen).split())


def _address(base: str, link: str) -> str:
    """Return a link as an address of the web, or nothing: it may be a script."""
    try:
        found = urllib.parse.urljoin(base, link) if link else ""
    except ValueError:
        return ""
    return found if found.startswith(("http://", "https://")) else ""


def _moment(parsed: Any) -> float | None:
    try:
        return float(calendar.timegm(parsed)) if parsed else None
    except (ValueError, OverflowError, TypeError):
        return None


def _ttl(channel: Any) -> float:
    """Return for how long a feed itself says that it does not change."""
    ttl = str(channel.get("ttl") or "").strip()
    if re.fullmatch(r"\d{1,6}", ttl, re.ASCII):
        return min(86400.0, float(ttl) * 60)
    period = _PERIODS.get(str(channel.get("sy_updateperiod") or "").strip().lower(), 0.0)
    times = str(channel.get("sy_updatefrequency") or "1").strip()
    return min(86400.0, period / int(times)) if re.fullmatch(r"[1-9]\d{0,4}", times, re.ASCII) else 0.0
