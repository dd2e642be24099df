"""Carries what is said between the hall and a channel of IRC: `python -m bots.irc irc.example.org 6667 '#haum'`, and there `!ping`."""

import asyncio
import json
import re
import sys
from contextlib import suppress

from bots.hall import bot, run
from bots.talk import said
from chappe import InvalidMessage, replace

app = bot("irc")
SAID = re.compile(r":([^\s!]+)\S* PRIVMSG \S+ :!(.+)")


def line(text: str) -> bytes:
    return text.encode()[:500].decode(errors="ignore").encode() + b"\r\n"  # RFC 2812 §2.3


async def hear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, channel: str) -> None:
    async for raw in reader:
        text = raw.decode(errors="replace").rstrip()
        if text.startswith("PING"):
            writer.write(line(f"PONG{text[4:]}"))
        elif re.match(r":\S+ 001 ", text):
            writer.write(line(f"JOIN {channel}"))
        elif found := SAID.fullmatch(text):
            with suppress(ValueError, TypeError, InvalidMessage):  # words that mean nothing here
                await app.apublish(replace(said(*found[2].split()), source=f"irc {found[1]}"))
    raise ConnectionError


async def tell(writer: asyncio.StreamWriter, channel: str) -> None:
    async for heard in app.follow("#", name="irc", since="last"):
        if not str(getattr(heard.event, "source", "")).startswith("irc "):  # it was said there
            writer.write(line(f"PRIVMSG {channel} :{heard.routing_key} {json.dumps(heard.body, ensure_ascii=False, default=repr)}"))
            await writer.drain()


async def carry() -> None:
    host, port, channel = sys.argv[1:]
    while True:
        with suppress(OSError, ExceptionGroup):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(line("NICK hall") + line("USER hall 0 * :the hall"))
            async with asyncio.TaskGroup() as both:
                both.create_task(hear(reader, writer, channel))
                both.create_task(tell(writer, channel))
        await asyncio.sleep(1)


if __name__ == "__main__":
    run(app, carry)
