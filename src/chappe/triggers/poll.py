"""Asks the server of a feed, by HTTP, for what is new."""

from __future__ import annotations

import asyncio
import time
import urllib.parse
from collections.abc import Callable
from typing import Final

import httpx2

from chappe.triggers.feed import Answer, Feed, Poll, conditions, failed, read

MOST_BYTES: Final = 10 * 1024 * 1024
_MOST_HOPS: Final = 5
_FOR_GOOD: Final = (301, 308)
_FOR_NOW: Final = (302, 303, 307)
_ACCEPTED: Final = "application/atom+xml, application/rss+xml, application/rdf+xml;q=0.9, application/xml;q=0.8, text/xml;q=0.8, */*;q=0.1"


async def poll(feed: Feed, http: httpx2.AsyncClient, *, now: Callable[[], float] = time.time) -> Poll:
    """Ask for what is new in a feed; whatever its server does, its `trouble` says so and nothing is raised.

    Each redirect is another request by `http`: where users choose the addresses, give it a transport that refuses yours.
    """
    try:
        answer = await _answer(feed, http)
    except (httpx2.HTTPError, httpx2.InvalidURL, ValueError) as error:  # also what its decoders make of a wrong body
        return failed(feed, f"The server cannot be reached: {str(error) or type(error).__name__}", now())
    if isinstance(answer, str):
        return failed(feed, answer, now())
    return await asyncio.to_thread(read, feed, answer, now())  # a large document takes a while


async def _answer(feed: Feed, http: httpx2.AsyncClient) -> Answer | str:
    """Return the last answer of a chain of redirects, or a sentence about what is wrong with it."""
    url, lasting, asked = feed.url, True, {"accept": _ACCEPTED, **conditions(feed)}
    for _ in range(_MOST_HOPS + 1):
        async with http.stream("GET", url, headers=asked, follow_redirects=False) as response:
            where = response.headers.get("location") if response.status_code in (*_FOR_GOOD, *_FOR_NOW) else None
            if where is None:
                body = await _body(response) if 200 <= response.status_code < 300 else b""
                if body is None:
                    return f"The feed is larger than {MOST_BYTES // 1024 // 1024} MB; it is not read."
                moved_to = url if lasting and url != feed.url else None
                return Answer(response.status_code, dict(response.headers), body, moved_to)
            lasting = lasting and response.status_code in _FOR_GOOD
            url = urllib.parse.urljoin(url, where)
            if not url.startswith(("http://", "https://")):
                return f"The server sends us to {url[:100]}, which is no web address."
    return f"The server redirects us more than {_MOST_HOPS} times."


async def _body(response: httpx2.Response) -> bytes | None:
    """Return the body, or nothing if it is too large; unpacked it counts too."""
    body = bytearray()
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > MOST_BYTES:
            return None
    return bytes(body)
