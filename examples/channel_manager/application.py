"""The application and what its handlers are given: the property database and an HTTP client."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator

import httpx2
from msgspec import Struct

from channel_manager.property import PropertyDatabase
from chappe import App

app = App("channels")


class Channels(Struct, frozen=True):
    """Where the channels are, and where they may answer."""

    url: str
    callback: str


@app.provides
def property_database() -> Iterator[PropertyDatabase]:
    """The back office's database, which is not Chappe's file."""
    with PropertyDatabase(os.environ.get("PROPERTY_DATABASE", "property.db")) as database:
        yield database


@app.provides
def channels() -> Channels:
    """The addresses, from the environment."""
    gateway = f"http://127.0.0.1:{os.environ.get('CHAPPE_PORT', '7070')}"
    return Channels(os.environ.get("CHANNELS_URL", "http://127.0.0.1:8000"), f"{gateway}/commands/confirm.push")


@app.provides
async def http() -> AsyncIterator[httpx2.AsyncClient]:
    """One client for each worker, with bounded patience."""
    limits = httpx2.Limits(max_connections=100, max_keepalive_connections=50)
    async with httpx2.AsyncClient(timeout=5.0, limits=limits, trust_env=False) as client:
        yield client
