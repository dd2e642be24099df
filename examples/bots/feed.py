"""Tells what is new in a feed, each post once: `python -m bots.feed FILE_OR_URL`."""

import asyncio
import sys
from typing import Any

import feedparser

from bots.hall import Reddit, bot, run

app = bot("feed")
library: Any = feedparser  # it has no types


async def feed() -> None:
    while True:
        for post in library.parse(sys.argv[1]).entries:
            await app.asend(Reddit(id=post.id, title=post.title, url=post.link, author=post.get("author", "")), idempotency_key=post.id)
        await asyncio.sleep(60)


run(app, feed)
