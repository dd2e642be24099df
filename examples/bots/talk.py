"""Says one thing, if it is told one, and shows what everybody says: `python -m bots.talk agenda add title="Open day"`."""

import datetime
import sys

from bots.hall import AgendaQuery, Ping, StatusQuery, bot, run
from chappe import Event

app, begun = bot("talk"), datetime.datetime.now(datetime.UTC)


def said(what: str, command: str = "request", *arguments: str) -> Event:
    """Return what the words of a person mean."""
    if what == "ping":
        return Ping(type=command, source="console")
    if what == "status":
        return StatusQuery(command=command)
    return AgendaQuery(command=command, arguments=dict(one.split("=", 1) for one in arguments))


async def talk() -> None:
    if len(sys.argv) > 1:
        await app.apublish(said(*sys.argv[1:]))
    async for heard in app.follow("#", since=begun):
        print(f"{heard.routing_key:18} {heard.body}", flush=True)


if __name__ == "__main__":
    run(app, talk)
