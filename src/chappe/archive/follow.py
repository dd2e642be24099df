"""Events from a position on: the past, then what comes, without a hole or a repeat between them."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct

from chappe.engines.contract.archive import Archive, Page, Record
from chappe.errors import BrokerError, DefinitionError, InvalidMessage
from chappe.messages.codec import decode_plain
from chappe.messages.envelope import Envelope

log = logging.getLogger("chappe.archive")

Since = int | datetime | timedelta | Literal["last"]
LOST: Final = "chappe.lost"  # the type of what is heard first where history was lost
AT_ONCE: Final = 500  # records of one page
WAIT: Final = 20.0  # seconds after which is looked again though nobody told of anything
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_LONGEST_SEQ: Final = 19
_KEEP_EVERY: Final = 1.0  # seconds between two times that a position is kept
_AGAIN: Final = 0.2


class Heard(Struct, frozen=True):
    """One event of the archive, as a follower hears it.

    `body` is what its JSON says, or the bytes as they are where it is no JSON. `event` is the message as the application declares it, or
    nothing where it knows none of this name. Where `lost` is not 0 it is no event: so many of the archive were lost before the follower
    came, and its type is `chappe.lost`. It is -1 where nobody can tell how many.
    """

    seq: int
    at: float
    exchange: str
    routing_key: str
    id: str
    type: str
    body: Any
    event: Any = None
    lost: int = 0


Opens = Callable[[Envelope], Any]  # makes a message of the application of an event, or nothing


def since_of(text: str) -> Since | None:
    """Read where to begin: a seq, a time span like 90s, 15m, 2h or 30d, a time as in ISO 8601, "last", or "now" for nothing of the past."""
    if text in ("now", "last"):
        return "last" if text == "last" else None
    if text.isdecimal() and len(text) < _LONGEST_SEQ:
        return int(text)
    if (span := re.fullmatch(r"(\d{1,9})([smhd])", text)) is not None:
        return timedelta(seconds=int(span[1]) * _SECONDS[span[2]])
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidMessage(
            "since", {"$": f'since {text[:40]!r} is no seq (184), span (15m, 30d), time (2026-11-29T12:00:00Z), "last" or "now"'}
        ) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def body_of(envelope: Envelope) -> Any:
    """Return what a body says, or its bytes where they are not what its content type says."""
    try:
        return decode_plain(envelope.body, envelope.content_type)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return envelope.body


def heard_of(record: Record, opens: Opens) -> Heard:
    """Return a record as a follower hears it."""
    envelope = record.envelope
    return Heard(record.seq, record.at, record.exchange, record.routing_key, envelope.id, envelope.type, body_of(envelope), opens(envelope))


def lost_before(page: Page, lost: int) -> Heard:
    """Return what says that history was lost before a page."""
    seq, at = (page.records[0].seq - 1, page.records[0].at) if page.records else (page.cursor, time.time())
    return Heard(seq, at, "", LOST, "", LOST, {"lost": lost}, None, lost)


def refuse_no_since(since: object, who: str) -> None:
    """Raise `DefinitionError` for what says no place in the past, or a time without its zone."""
    if not isinstance(since, int | datetime | timedelta):
        raise DefinitionError(f"{who}: since={since!r} says nothing; write a seq, a datetime or a timedelta")
    if isinstance(since, datetime) and since.tzinfo is None:
        raise DefinitionError(f"{who}: since needs a datetime with its time zone, like datetime.now(UTC)")


async def position_at(archive: Archive, moment: float) -> int:
    """Return the position behind the last event before a time, by halving."""
    first, last = 0, (await archive.archived(0, 0)).end
    while first < last:
        middle = (first + last) // 2
        page = await archive.archived(middle, 1)
        if page.records and page.records[0].at < moment:
            first = page.cursor
        else:
            last = middle
    return last


async def begin_at(archive: Archive, since: Since | None, now: Callable[[], float] | None = None) -> int:
    """Return the position that a `since` means; nothing and "last" mean the end."""
    if isinstance(since, int):
        return max(0, since)
    if isinstance(since, timedelta):
        return await position_at(archive, (now or time.time)() - since.total_seconds())
    if isinstance(since, datetime):
        return await position_at(archive, since.timestamp())
    return (await archive.archived(0, 0)).end


def loss_of(after: int, page: Page) -> int:
    """Return how many events are missing between a position and a page; -1 if it is a position of another archive."""
    return -1 if page.cursor < after else page.lost


def loss_since(since: Since | None, after: int, page: Page) -> int:
    """Return the same for who asked for `since`: only behind a seq can something be missing, all else asks for what is kept."""
    return loss_of(after, page) if isinstance(since, int) and since > 0 else 0


class Following:
    """Reads an archive from one position on, and remembers how far it is where it has a name.

    It is what `App.follow` returns, the events one after the other: `async for heard in app.follow("bid.*"): …`.
    """

    def __init__(
        self,
        archive: Callable[[], Awaitable[Archive]],
        pattern: str,
        opens: Opens = lambda _: None,
        *,
        since: Since | None = None,
        name: str | None = None,
        acks: bool = False,
        catches_up: bool = True,
        now: Callable[[], float] | None = None,
    ) -> None:
        """Prepare; `acks` says that only `ack` moves the kept position, `catches_up` that what came while it was away is heard.

        Raises `DefinitionError` for a `since` that says nothing.
        """
        if since == "last" and name is None:
            raise DefinitionError('follow(since="last") goes on where a follower of that name was: give it name="…"')
        if acks and name is None:
            raise DefinitionError('follow(acks=True) keeps what was acknowledged under a name: give it name="…"')
        if not (since is None or since == "last"):
            refuse_no_since(since, "follow")
        self._archive = archive
        self._pattern = pattern
        self._opens = opens
        self._since: Since | None = since
        self._name = name
        self._acks = acks
        self._catches_up = catches_up
        self._now = now
        self.position = -1  # behind what was handed out; -1 before it is known
        self._is_first = False  # whether the next page is the first after where `since` begins
        self._kept = -1
        self._kept_at = 0.0
        self._events = self._heard()

    def __aiter__(self) -> AsyncGenerator[Heard]:
        return self._events

    async def ack(self, heard: Heard) -> None:
        """Keep the position behind this event, where `acks=True` was said: who follows by this name later hears what is behind it."""
        assert self._name is not None, "only a follower with a name keeps a position"
        await (await self._archive()).keep_position(self._name, heard.seq)

    async def aclose(self) -> None:
        """Keep the position, and follow no more."""
        await self._events.aclose()

    async def _heard(self) -> AsyncGenerator[Heard]:
        pages = self.pages()
        try:
            async for loss, page in pages:
                if loss:
                    many = loss if loss > 0 else "some"
                    log.warning("%s events before seq %d are not heard: they are kept no more, or were passed over", many, page.cursor + 1)
                    yield lost_before(page, loss)
                for record in page.records:
                    yield heard_of(record, self._opens)
                    self.position = record.seq
                    await self._keep(at_once=False)
        finally:
            await pages.aclose()
            await asyncio.shield(self._keep(at_once=True))

    async def pages(self) -> AsyncGenerator[tuple[int, Page]]:
        """Yield pages for ever, each with the loss before it; what the broker refuses for a while is waited for."""
        while True:
            try:
                loss, page = await self.page(WAIT)
            except BrokerError as error:
                log.warning("cannot read the archive (%s); trying again", error)
                await asyncio.sleep(_AGAIN)
                continue
            if page.records or loss:
                yield loss, page
            await self.passed(page)

    async def page(self, wait: float = 0.0) -> tuple[int, Page]:
        """Return the next page and how many events are missing before it; it is so until it is `passed`. Raises `BrokerError`."""
        archive = await self._archive()
        if self.position < 0 and (missed := await self._begin(archive)):
            return missed, Page([], self.position, self.position)
        page = await archive.archived(self.position, AT_ONCE, pattern=self._pattern, wait=wait)
        return loss_since(self._since, self.position, page) if self._is_first else loss_of(self.position, page), page

    async def passed(self, page: Page, *, at_once: bool = False) -> None:
        """Go on behind a page, and keep that now or if it was not done for a while."""
        self.position, self._is_first = page.cursor, False
        await self._keep(at_once=at_once)

    def begin_again(self) -> None:
        """Go on from what is kept: of another engine, or by another process of this name."""
        self.position = -1

    async def _begin(self, archive: Archive) -> int:
        """Find the position to begin at, and return how many events that fit are passed over on the way there."""
        if self._name is not None and (kept := (await archive.followers()).get(self._name)) is not None:
            self.position = self._kept = kept
            return 0 if self._catches_up else await self._pass_over(archive)
        self.position = await begin_at(archive, self._since, self._now)
        self._is_first = True
        if self._name is not None:
            await archive.keep_position(self._name, self.position)
            self._kept = self.position
        return 0

    async def _pass_over(self, archive: Archive) -> int:
        position, end, missed = self.position, (await archive.archived(0, 0)).end, 0
        while position < end:
            page = await archive.archived(position, AT_ONCE, pattern=self._pattern)
            missed += page.lost + len([record for record in page.records if record.seq <= end])
            position = page.cursor
        self.position = end
        return missed

    async def _keep(self, *, at_once: bool) -> None:
        """Keep how far it is, now or if that was not done for a while; what cannot be kept is heard again."""
        now = time.monotonic()
        if self._name is None or self._acks or self.position == self._kept or not (at_once or now - self._kept_at >= _KEEP_EVERY):
            return
        try:
            await (await self._archive()).keep_position(self._name, self.position)
        except BrokerError as error:
            log.warning(
                'the position of follower "%s" was not kept (%s): what follows %s may be heard again', self._name, error, self._kept
            )
            return
        self._kept, self._kept_at = self.position, now
