"""The application and what its handlers are given: the library and the web."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Iterator

from sqlalchemy import create_engine

from chappe import App
from chappe.integrations.sqlalchemy import Outbox
from read_later.addresses import resolve
from read_later.fetching import Fetcher
from read_later.library import Library, open_engine
from read_later.local_web import rehearsed
from read_later.tables import Table

app = App("read-later")
outbox = Outbox(app, lambda: create_engine(database()), Table.metadata)
logging.getLogger("httpx2").setLevel(logging.WARNING)  # it tells of every request

# Workers are forked from a process that has imported this: they share what SQLAlchemy prepares when it is used for the first time.
_rehearsal = open_engine("sqlite://")
Library(_rehearsal).url_of(0)
_rehearsal.dispose()


def database() -> str:
    """Return where the application's own tables are, which need not be where messages wait."""
    return os.environ.get("READ_LATER_DATABASE", "sqlite:///read_later.db")


@app.provides
def library() -> Iterator[Library]:
    """The application's own database, which is not Chappe's: a file, or PostgreSQL."""
    engine = open_engine(database())
    yield Library(engine)
    engine.dispose()


@app.provides
async def fetcher() -> AsyncIterator[Fetcher]:
    """The web; READ_LATER_WEB names a server that plays it."""
    web = os.environ.get("READ_LATER_WEB")
    seconds = float(os.environ.get("READ_LATER_FETCH_SECONDS", "30"))
    made = Fetcher(seconds=seconds, ask=rehearsed if web else resolve, web=web)
    yield made
    await made.close()
