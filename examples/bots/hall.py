"""Where the bots talk: the exchange, what is said in it, and how a bot runs until Ctrl-C."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable
from typing import Any

from msgspec import field

from chappe import App, Event, Exchange

HAUM = Exchange("haum", archive=30 * 86400.0)


class Ping(Event, exchange=HAUM, routing_key="ping"):
    """A request, or the answer to it, with the request as its `source`."""

    type: str
    source: Any = None
    name: str | None = None


class Reddit(Event, exchange=HAUM, routing_key="reddit"):
    """Somebody posted something."""

    id: str
    title: str
    url: str
    author: str = ""


class StatusQuery(Event, exchange=HAUM, routing_key="spacestatus.query"):
    """Somebody asks whether the space is open, with `status`, or opens or closes it, with `toggle`."""

    command: str
    source: str = "console"


class StatusAnswer(Event, exchange=HAUM, routing_key="spacestatus.answer"):
    """Whether the space is open."""

    is_open: bool
    has_changed: bool
    source: str


class AgendaQuery(Event, exchange=HAUM, routing_key="agenda.query"):
    """Somebody asks what is planned, with `list`, or plans something, with `add`."""

    command: str
    arguments: dict[str, Any] = field(default_factory=dict[str, Any])
    source: str = "console"


class AgendaAnswer(Event, exchange=HAUM, routing_key="agenda.answer"):
    """What is planned."""

    content: list[dict[str, Any]]
    source: str


def bot(name: str) -> App:
    """Return the application of a bot."""
    app = App(name)
    app.knows(Ping, Reddit, StatusQuery, StatusAnswer, AgendaQuery, AgendaAnswer)
    return app


def run(app: App, main: Callable[[], Awaitable[None]]) -> None:
    """Run a bot until it ends, or until Ctrl-C or TERM end it: then it says nothing more, and its position is kept."""

    async def until_the_end() -> None:
        running = asyncio.ensure_future(main())
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, running.cancel)
        with contextlib.suppress(asyncio.CancelledError):
            await running
        await asyncio.get_running_loop().shutdown_asyncgens()
        await app.aclose()

    asyncio.run(until_the_end())
