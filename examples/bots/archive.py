"""Writes every message of every exchange into a file for each day, whatever is in it."""

import datetime
from pathlib import Path

import msgspec

from bots.hall import bot, run

app = bot("archive")


async def archive() -> None:
    async for heard in app.follow("#", name="archive", since=0):
        with Path(f"{datetime.datetime.fromtimestamp(heard.at, datetime.UTC):%Y-%m-%d}.jsonl").open("ab") as file:
            file.write(msgspec.json.encode(heard) + b"\n")


run(app, archive)
