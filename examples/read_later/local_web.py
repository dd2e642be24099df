"""One server that plays the whole web in tests and demos: real pages under every address, and a few that misbehave.

`python -m read_later.local_web` prints its port as JSON. What an address does depends on nothing but the address.
"""

from __future__ import annotations

import asyncio
import gzip
import json
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Final, Literal
from urllib.parse import urlsplit
from zlib import crc32

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from local_server import serve
from read_later.sample import shared_data

Fate = Literal["well", "slow", "redirects", "wrong charset", "502 twice", "404", "500", "leads inside", "huge", "hangs", "pdf"]

FATES: Final[tuple[tuple[int, Fate], ...]] = (
    (3, "slow"),
    (4, "redirects"),
    (3, "wrong charset"),
    (2, "502 twice"),
    (2, "404"),
    (1, "500"),
    (1, "leads inside"),
    (1, "huge"),
    (1, "hangs"),
    (1, "pdf"),
)
READABLE: Final[frozenset[Fate]] = frozenset({"well", "slow", "redirects", "wrong charset", "502 twice"})
SLOW: Final = 1.5
_WELL: Final = "/~well/"
_INSIDE: Final = "http://169.254.169.254/latest/meta-data/"  # where a cloud keeps its passwords
_PUBLIC: Final = "93.184.215.14"


def fate_of(url: str) -> Fate:
    """Return what the page behind an address does."""
    parts = urlsplit(url)
    return _fate(parts.netloc, f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/")


def _fate(host: str, path: str) -> Fate:
    if path.startswith(_WELL):
        return "well"
    if host.partition(":")[0] == "localhost":  # real bookmarks hold such links
        return "leads inside"
    place = crc32(f"{host}{path}".encode()) % 100
    for percent, fate in FATES:
        place -= percent
        if place < 0:
            return fate
    return "well"


async def rehearsed(host: str, _port: int) -> Sequence[str]:
    """Return what a name server would say: a public address for every name, and an address for itself."""
    if host == "localhost":
        return ["127.0.0.1"]
    return [host if host.replace(".", "").isdigit() or ":" in host else _PUBLIC]


class _Truth(msgspec.Struct):
    url: str


class Shelf:
    """The real pages of the shared data, or a few of our own; those whose address is known stand under it."""

    def __init__(self) -> None:
        self.known = dict[str, Path]()
        self._packed = dict[Path, bytes]()
        data = shared_data()
        shared = data / "web" if data else Path(__file__).parent / "samples"
        truth = shared / "aeb/ground-truth.json"
        if data:
            for name, one in msgspec.json.decode(truth.read_bytes(), type=dict[str, _Truth]).items():
                parts = urlsplit(one.url)
                self.known[parts.netloc + (parts.path or "/")] = shared / f"aeb/html/{name}.html.gz"
        found = [*self.known.values(), *shared.glob("readability/*/source.html")]
        self.pages = sorted(found) or sorted(shared.glob("*.html"))

    def page(self, host: str, path: str) -> bytes:
        """Return the page behind an address, packed by gzip."""
        chosen = self.known.get(host + path.partition("?")[0]) or self.pages[crc32(path.encode()) % len(self.pages)]
        if chosen not in self._packed:
            content = chosen.read_bytes()
            self._packed[chosen] = content if chosen.suffix == ".gz" else gzip.compress(content)
        return self._packed[chosen]


class LocalWeb:
    """Answers for every host."""

    def __init__(self, *, slow: float = SLOW) -> None:
        self._shelf = Shelf()
        self._slow = slow
        self._asked = Counter[str]()
        self.app = Starlette(routes=[Route("/~asked", self.asked), Route("/{path:path}", self.page)])

    async def asked(self, request: Request) -> Response:
        """Say how often each address was asked for."""
        return Response(json.dumps(self._asked), media_type="application/json")

    async def page(self, request: Request) -> Response:
        """Answer as the address does."""
        host = request.headers.get("host", "")
        path = request.scope["raw_path"].decode() + (f"?{request.url.query}" if request.url.query else "")
        self._asked[host + path] += 1
        match _fate(host, path):
            case "slow":
                await asyncio.sleep(self._slow)
            case "redirects":
                return RedirectResponse(f"http://{host}{_WELL}{path.lstrip('/')}", 301)
            case "wrong charset":
                # Windows' letters, called UTF-8 by the server and by the page.
                content = gzip.decompress(self._shelf.page(host, path)).decode(errors="replace").encode("cp1252", "xmlcharrefreplace")
                return Response(content, media_type="text/html; charset=utf-8")
            case "502 twice" if self._asked[host + path] <= 2:
                return PlainTextResponse("bad gateway", 502)
            case "404":
                return HTMLResponse("<h1>Not found</h1>", 404)
            case "500":
                return PlainTextResponse("oops", 500)
            case "leads inside":
                return RedirectResponse(_INSIDE, 302)
            case "huge":
                return StreamingResponse(_without_end(), media_type="text/html")
            case "hangs":
                await asyncio.sleep(3600)
            case "pdf":
                return Response(b"%PDF-1.7", media_type="application/pdf")
            case _:
                pass
        content = self._shelf.page(host, path.removeprefix(_WELL))
        if "gzip" not in request.headers.get("accept-encoding", ""):
            return HTMLResponse(gzip.decompress(content))
        return HTMLResponse(content, headers={"Content-Encoding": "gzip"})


async def _without_end() -> AsyncIterator[bytes]:
    yield b"<html><body>"
    while True:
        yield b"<p>" + b"more and more " * 5000
        await asyncio.sleep(0)


if __name__ == "__main__":
    serve(LocalWeb().app, log_level="critical")
