"""Answers each ping, also those that came while it was away."""

from bots.hall import Ping, bot, run

app = bot("ping")


async def ping() -> None:
    async for heard in app.follow("ping", name="ping", since=0):
        if heard.body["type"] == "request":
            await app.apublish(Ping(type="answer", name="ping", source=heard.body))


run(app, ping)
