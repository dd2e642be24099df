"""Fetches one page from the web, within bounds of time, size and redirects, and from public addresses only."""

from __future__ import annotations

import asyncio
import re
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Final

import httpx2
from msgspec import Struct

from read_later.addresses import Forbidden, Resolve, public_address, resolve

LARGEST_PAGE: Final = 5 * 1024 * 1024
MOST_REDIRECTS: Final = 5
_READABLE: Final = ("text/html", "application/xhtml+xml", "text/plain")
_PASSING: Final = {408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524}
_LONGEST_PAUSE: Final = 120.0
_CHARSET: Final = re.compile(r"[\w.:-]{1,40}", re.ASCII)
_AGENT: Final = "read-later/1.0 (an example of Chappe)"


class PageFailed(Exception):
    """There is no page to keep: the message is a sentence for its user.

    `is_passing` says whether another attempt may go better, `after` in how many seconds the server wants it.
    """

    def __init__(self, why: str, *, is_passing: bool = False, after: float | None = None) -> None:
        super().__init__(why)
        self.is_passing = is_passing
        self.after = after


class FetchedPage(Struct, frozen=True):
    """A page as its server sent it, and the address that it came from in the end.

    Reading it is not for the process that fetches: what unpacks and decodes one page keeps all others waiting.
    """

    body: bytes
    url: str
    is_packed: bool = False
    charset: str | None = None


class _Guard(httpx2.AsyncBaseTransport):
    """Looks at the address of every request, each redirect included, and connects to the one that it has looked at."""

    def __init__(self, inner: httpx2.AsyncBaseTransport, ask: Resolve, web: str | None) -> None:
        self._inner = inner
        self._ask = ask
        self._web = httpx2.URL(web) if web else None

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        url = request.url
        if url.scheme not in ("http", "https"):
            raise PageFailed(f"it leads to {url.scheme}://, which is no web page")
        try:
            address = await public_address(url.host, url.port or (443 if url.scheme == "https" else 80), self._ask)
        except Forbidden as error:
            raise PageFailed(str(error)) from None
        except OSError as error:
            raise PageFailed(f"{url.host} is not found ({error.strerror or error})", is_passing=True) from None
        headers = request.headers.copy()
        headers["Host"] = url.netloc.decode()
        extensions = {**request.extensions, "sni_hostname": url.raw_host.decode()}
        if self._web is not None:  # a rehearsal: the name and its address were judged, and one server plays the whole web
            pinned = url.copy_with(scheme="http", host=self._web.host, port=self._web.port)
        else:
            pinned = url.copy_with(host=address)
        # A request of its own: redirects go on from the address that was asked for, not from the pinned one.
        return await self._inner.handle_async_request(
            httpx2.Request(request.method, pinned, headers=headers, stream=request.stream, extensions=extensions)
        )

    async def aclose(self) -> None:
        await self._inner.aclose()


class Fetcher:
    """Fetches pages; `web` is a server that plays the whole web in tests and demos."""

    def __init__(self, *, seconds: float = 30.0, ask: Resolve = resolve, web: str | None = None) -> None:
        self._seconds = seconds
        # No connection is kept: one to an address must not serve another name that has the same one.
        limits = httpx2.Limits(max_connections=200, max_keepalive_connections=0)
        transport = httpx2.AsyncHTTPTransport(limits=limits, trust_env=False)
        self._http = httpx2.AsyncClient(
            transport=_Guard(transport, ask, web),
            follow_redirects=True,
            max_redirects=MOST_REDIRECTS,
            timeout=seconds,
            trust_env=False,
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),  # what one page sets is no other fetch's
            headers={"User-Agent": _AGENT, "Accept": "text/html,application/xhtml+xml,text/plain;q=0.5", "Accept-Encoding": "gzip"},
        )

    async def fetch(self, url: str) -> FetchedPage:
        """Return the page behind an address; raises `PageFailed`."""
        try:
            async with asyncio.timeout(self._seconds), self._http.stream("GET", url) as answer:
                _judge(answer)
                is_packed = _is_packed(answer)
                return FetchedPage(await _body(answer), str(answer.url), is_packed, _charset(answer))
        except TimeoutError:
            raise PageFailed(f"it did not come within {self._seconds:g} seconds", is_passing=True) from None
        except httpx2.TooManyRedirects:
            raise PageFailed(f"it leads from one address to the next, more than {MOST_REDIRECTS} times") from None
        except (httpx2.InvalidURL, httpx2.UnsupportedProtocol) as error:
            raise PageFailed(f"its address cannot be used: {error}") from None
        except httpx2.TransportError as error:
            raise PageFailed(f"its server cannot be reached ({error or type(error).__name__})", is_passing=True) from None

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()


def _judge(answer: httpx2.Response) -> None:
    status = answer.status_code
    if status != 200:
        after = answer.headers.get("retry-after", "")
        seconds = min(float(after), _LONGEST_PAUSE) if after.isascii() and after.isdigit() and len(after) < 10 else None
        phrase = f"{status} {answer.reason_phrase}".strip()
        raise PageFailed(f"its server answers {phrase}", is_passing=status in _PASSING, after=seconds)
    kind = answer.headers.get("content-type", "text/html").partition(";")[0].strip().lower()
    if kind not in _READABLE:
        raise PageFailed(f"it is {kind[:100] or 'of no known type'}, and only pages are read")
    length = answer.headers.get("content-length", "")
    if length.isdigit() and int(length) > LARGEST_PAGE:
        raise _too_large()


def _is_packed(answer: httpx2.Response) -> bool:
    encoding = answer.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", "gzip", "x-gzip", ""):
        raise PageFailed(f"its server packs it as {encoding[:30]}, which was not asked for")
    return "gzip" in encoding


def _charset(answer: httpx2.Response) -> str | None:
    declared = answer.charset_encoding
    return declared if declared is not None and _CHARSET.fullmatch(declared) else None


async def _body(answer: httpx2.Response) -> bytes:
    """Read the body as it comes, up to the bound."""
    body = bytearray()
    async for chunk in answer.aiter_raw():
        body += chunk
        if len(body) > LARGEST_PAGE:
            raise _too_large()
    return bytes(body)


def _too_large() -> PageFailed:
    return PageFailed(f"it is larger than {LARGEST_PAGE // 1024 // 1024} MB")
