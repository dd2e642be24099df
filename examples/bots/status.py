"""Knows whether the space is open; what was said before is its memory."""

import time

from bots.hall import StatusAnswer, bot, run

app, begun = bot("status"), time.time()


async def status() -> None:
    is_open = False
    async for heard in app.follow("spacestatus.query", since=0):
        is_open ^= (changes := heard.body["command"] == "toggle")
        if heard.at >= begun:
            await app.apublish(StatusAnswer(is_open=is_open, has_changed=changes, source=heard.body["source"]))


run(app, status)
