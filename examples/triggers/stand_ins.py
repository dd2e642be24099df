"""Stand-ins of what the triggers talk to, in one process with real HTTP: feeds, Pocket, Trello, Mastodon and a webhook.

`python -m triggers.stand_ins FOLDER` serves the feeds of a folder and prints `{"port": N}` when it listens on 127.0.0.1.
Each call takes as long, and each account is refused after as many calls, as `POST /control` says.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import email.utils
import hashlib
import re
import time
from collections import defaultdict, deque
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from local_server import serve

_ENTRY: Final = re.compile(rb"<(item|entry)(?=[\s>])")
_OURS: Final = re.compile(r"LICENSE$|\.opml$")


class Manner(Struct, frozen=True, forbid_unknown_fields=True):
    """How long a call takes, and how many calls one account may make in a window of seconds."""

    seconds: float = 0.0
    calls: int = 1000
    window: float = 900.0


class Taken(Struct, frozen=True):
    """What a service took: `key` says which repetition would be the same."""

    service: str
    account: str
    title: str
    key: str


class StandIns:
    """The feeds of a folder and the four services, with what they were handed."""

    def __init__(self, feeds: list[Path]) -> None:
        self._feeds = [path.read_bytes() for path in feeds]
        self._names = [path.name for path in feeds]
        self._changed = [1_500_000_000.0] * len(feeds)
        self._manner = Manner()
        self._calls: dict[str, deque[float]] = defaultdict(deque)
        self._taken: dict[tuple[str, str, str], Taken] = {}
        self._repeated = self._refused = self._asked = self._unchanged = 0

    def app(self) -> Starlette:
        """Return the ASGI application."""
        return Starlette(
            routes=[
                Route("/feeds", self.feeds),
                Route("/feeds/{number:int}", self.feed),
                Route("/feeds/{number:int}", self.add, methods=["POST"]),
                Route("/moved/{number:int}", self.moved),
                Route("/gone", self.gone),
                Route("/pocket/v3/add", self.pocket, methods=["POST"]),
                Route("/trello/1/cards", self.trello, methods=["POST"]),
                Route("/trello/1/lists/inbox/cards", self.cards),
                Route("/mastodon/api/v1/statuses", self.mastodon, methods=["POST"]),
                Route("/webhook", self.webhook, methods=["POST"]),
                Route("/control", self.control, methods=["POST"]),
                Route("/journal", self.journal),
            ]
        )

    async def feeds(self, _: Request) -> Response:
        """List the feeds, and to which of them entries can be added."""
        return JSONResponse([{"name": n, "grows": bool(_ENTRY.search(b))} for n, b in zip(self._names, self._feeds, strict=True)])

    async def feed(self, request: Request) -> Response:
        """Serve a feed, or say that it has not changed."""
        self._asked += 1
        await asyncio.sleep(self._manner.seconds)
        number: int = request.path_params["number"]
        body = self._feeds[number]
        said = {
            "etag": f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"',
            "last-modified": email.utils.formatdate(self._changed[number], usegmt=True),
        }
        if request.headers.get("if-none-match") == said["etag"]:
            self._unchanged += 1
            return Response(status_code=304, headers=said)
        return Response(body, media_type="application/xml", headers=said)

    async def moved(self, request: Request) -> Response:
        """Say that a feed is elsewhere for good."""
        return RedirectResponse(f"/feeds/{request.path_params['number']}", 301)

    async def gone(self, _: Request) -> Response:
        """Say that there is no feed any more."""
        return Response("It is gone.", 410)

    async def add(self, request: Request) -> Response:
        """Put an entry before the others of a feed, in the form of that feed."""
        number: int = request.path_params["number"]
        title = str((await request.json())["title"])
        now = time.time()
        link = f"http://news.example/{hashlib.md5(title.encode(), usedforsecurity=False).hexdigest()}"
        found = _ENTRY.search(self._feeds[number])
        if found is None:
            return JSONResponse({"detail": "nothing can be added to this feed"}, 409)
        if found[1] == b"entry":
            moment = datetime.datetime.fromtimestamp(now, datetime.UTC).isoformat()
            entry = f'<entry><title>{title}</title><link href="{link}"/><id>{link}</id><updated>{moment}</updated></entry>'
        else:
            moment = email.utils.formatdate(now)
            entry = (
                f'<item><title>{title}</title><link>{link}</link><guid isPermaLink="true">{link}</guid><pubDate>{moment}</pubDate></item>'
            )
        body = self._feeds[number]
        self._feeds[number] = body[: found.start()] + entry.encode("ascii", "xmlcharrefreplace") + body[found.start() :]
        self._changed[number] = now
        return JSONResponse({"link": link})

    async def pocket(self, request: Request) -> Response:
        """Take a link once, and say `User Limit Reached` as Pocket did."""
        body = await request.json()
        account = f"pocket {body['access_token']}"
        if (left := await self._turn(account)) is not None:
            return Response(status_code=403, headers={"x-error": "User Limit Reached", "x-limit-user-reset": str(int(left) + 1)})
        return self._take(Taken("pocket", account, body["title"], body["url"] or body["title"]))

    async def trello(self, request: Request) -> Response:
        """Make a card, another one for each call."""
        asked = request.query_params
        account = f"trello {asked['token']}"
        if (left := await self._turn(account)) is not None:
            return JSONResponse({"error": "API_TOKEN_LIMIT_EXCEEDED"}, 429, {"retry-after": str(int(left) + 1)})
        return self._take(Taken("trello", account, asked["name"], f"{asked['desc']} #{len(self._taken)}"))

    async def cards(self, request: Request) -> Response:
        """List the cards of an account."""
        account = f"trello {request.query_params['token']}"
        return JSONResponse([{"name": t.title, "desc": t.key.rpartition(" #")[0]} for t in self._taken.values() if t.account == account])

    async def mastodon(self, request: Request) -> Response:
        """Take a status once for each idempotency key."""
        account = f"mastodon {request.headers['authorization']}"
        if (left := await self._turn(account)) is not None:
            until = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=left)
            return JSONResponse({"error": "Too many requests"}, 429, {"x-ratelimit-remaining": "0", "x-ratelimit-reset": until.isoformat()})
        return self._take(Taken("mastodon", account, (await request.json())["status"], request.headers["idempotency-key"]))

    async def webhook(self, request: Request) -> Response:
        """Take a body once for each id."""
        account = f"webhook {request.headers['authorization']}"
        if (left := await self._turn(account)) is not None:
            return Response(status_code=429, headers={"retry-after": str(int(left) + 1)})
        return self._take(Taken("webhook", account, (await request.json())["title"], request.headers["webhook-id"]))

    async def _turn(self, account: str) -> float | None:
        """Take as long as a call takes, and return the seconds until the account may call again if it may not now."""
        await asyncio.sleep(self._manner.seconds)
        calls, now = self._calls[account], time.monotonic()
        while calls and calls[0] <= now - self._manner.window:
            calls.popleft()
        if len(calls) >= self._manner.calls:
            self._refused += 1
            return self._manner.window - (now - calls[0] if calls else 0.0)
        calls.append(now)
        return None

    def _take(self, taken: Taken) -> Response:
        known = (taken.service, taken.account, taken.key)
        self._repeated += known in self._taken
        self._taken.setdefault(known, taken)
        return JSONResponse({"status": 1})

    async def control(self, request: Request) -> Response:
        """Set how long calls take and how many are allowed, from now on."""
        try:
            self._manner = msgspec.json.decode(await request.body(), type=Manner)
        except msgspec.DecodeError as error:
            return JSONResponse({"detail": str(error)}, 400)
        return JSONResponse(msgspec.to_builtins(self._manner))

    async def journal(self, _: Request) -> Response:
        """Tell what was taken, how often something came twice or was refused, and how often feeds were asked in vain."""
        counts = {"repeated": self._repeated, "refused": self._refused, "asked": self._asked, "unchanged": self._unchanged}
        return JSONResponse({"taken": [msgspec.to_builtins(one) for one in self._taken.values()], **counts})


def feeds_in(folder: Path) -> list[Path]:
    """Return the feeds below a folder, those with most to read first."""
    found = [path for path in folder.rglob("*") if path.is_file() and not _OURS.search(path.name)]
    return sorted(found, key=lambda path: (-len(_ENTRY.findall(path.read_bytes())), path.name))


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    options = argparse.ArgumentParser(description="Feeds and four services on 127.0.0.1.")
    options.add_argument("folder", type=Path, help="where the feeds are")
    options.add_argument("--port", type=int, default=0, help="0: any free one; it is printed as JSON")
    chosen = options.parse_args()
    serve(StandIns(feeds_in(chosen.folder)).app(), chosen.port)


if __name__ == "__main__":
    main()
