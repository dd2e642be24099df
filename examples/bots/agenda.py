"""Keeps the agenda; the archive is its memory, so it has no file of its own."""

import time
from typing import Any

from bots.hall import AgendaAnswer, bot, run

app, begun = bot("agenda"), time.time()


async def agenda() -> None:
    planned: list[Any] = []
    async for heard in app.follow("agenda.query", since=0):
        planned += [heard.body["arguments"]] if heard.body["command"] == "add" else []
        if heard.at >= begun:
            await app.apublish(AgendaAnswer(content=planned, source=heard.body["source"]))


run(app, agenda)
