"""The archive: a stream, whose offsets are the numbers of its records."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final

from chappe.engines.contract.archive import Page, Record
from chappe.engines.rabbitmq.link import Link
from chappe.engines.rabbitmq.names import ARCHIVE
from chappe.engines.rabbitmq.properties import envelope_of, published_at
from chappe.engines.rabbitmq.reading import Message
from chappe.messages.topology import passes

_AT_ONCE: Final = 1000
_EMPTY: Final = 0.3  # seconds of silence after which a stream is believed to have nothing at all
OFFSET: Final = "x-stream-offset"


async def read(link: Link, after: int, limit: int, pattern: str, wait: float = 0.0) -> Page:
    """See `Archive.archived`; a record's number is its offset in the stream plus one."""
    last = await _last(link)
    end = after if last is None else last  # what has nothing at all cannot tell whether a position is of another archive
    if limit <= 0 or end < after or (end == after and wait <= 0):
        return Page([], min(after, end), end)
    found: list[Record] = []
    seen, looked = after, 0

    def take(number: int, message: Message) -> None:
        nonlocal seen, looked
        if number > seen and len(found) < limit:  # a stream gives the whole chunk in which an offset is
            seen, looked = number, looked + 1
            if pattern == "#" or passes("topic", pattern, message.routing_key):
                envelope = envelope_of(message.properties, message.body, fallback=message.routing_key)
                found.append(Record(number, published_at(message.properties), message.exchange, message.routing_key, envelope))

    tag, came = await _consume(link, after, take)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(wait if end == after else None):
            link.ended.add_done_callback(lambda _: came.set())
            while len(found) < limit and seen < max(end, after + 1) and not link.ended.done():
                came.clear()
                await came.wait()
    if not link.ended.done():
        await link.channel.cancel(tag)
    return Page(found, seen, max(end, seen), seen - after - looked)


async def _consume(link: Link, offset: int | str, take: Callable[[int, Message], None]) -> tuple[str, asyncio.Event]:
    """Have records be taken with their numbers from an offset on; return the consumer's tag, and what is set with each of them."""
    came = asyncio.Event()

    def lent(message: Message) -> None:
        link.channel.ack(message.tag)
        take(int(message.properties.headers[OFFSET]) + 1, message)
        came.set()

    tag = await link.channel.consume(ARCHIVE, lent, prefetch=_AT_ONCE, arguments={OFFSET: offset}, on_cancelled=came.set)
    return tag, came


async def _last(link: Link) -> int | None:
    """Return the number of the last record, none if there is none."""
    last: list[int] = []
    _, count, _ = await link.queue(ARCHIVE, passive=True)
    tag, came = await _consume(link, "last", lambda number, _: last.append(number))
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(None if count else _EMPTY):  # a busy server that is slow to show it has it all the same
            await came.wait()
    await link.channel.sync()  # the rest of the chunk came before this is answered
    await link.channel.cancel(tag)
    return max(last, default=None)
