"""The application under measurement: a 200-byte typed command, and what the other works need."""

from __future__ import annotations

import asyncio
import os
import time

from benchmarks import tally
from chappe import App, Command, Event, Exchange, replace

app = App("bench")


class Noop(Command, queue="noop"):
    """What is sent and drained; 200 bytes of JSON."""

    id: int
    name: str
    user: str
    tags: list[str]
    note: str
    ok: bool
    ratio: float


class Stamp(Command, queue="stamp"):
    """The same with the time at which it was sent."""

    at: float
    id: int
    name: str
    user: str
    note: str


class Mask(Command, queue="mask", key="{property_id}"):
    """What changed of one property: pending ones become one."""

    property_id: int
    nights: frozenset[int]
    note: str

    def merge(self, newer: Mask) -> Mask:
        return replace(self, nights=self.nights | newer.nights)


class Shared(Command, queue="shared", fair="{user}"):
    """What a tenant sends."""

    user: str
    at: float
    seconds: float
    note: str


class Pause(Command, queue="pause"):
    """A trigger that waits for somebody else's server."""

    at: float
    seconds: float


class Block(Command, queue="block"):
    """The same with a library that blocks its thread."""

    at: float
    seconds: float


class Burn(Command, queue="burn"):
    """Computes in Python without a pause."""

    seconds: float


class Kept(Event, exchange=Exchange("kept", archive=30 * 86400.0), routing_key="kept"):
    """An event of an exchange that is archived; 200 bytes of JSON as a command."""

    id: int
    name: str
    user: str
    tags: list[str]
    note: str
    ok: bool
    ratio: float


class Passing(Kept, exchange=Exchange("passing", archive=0.0), routing_key="passing"):
    """The same of an exchange that is not."""


class Bulk(Event, exchange=Kept.__spec__.exchange, routing_key="bulk"):
    """A large event of the exchange that is archived."""

    note: str


@app.on(Kept)
async def heard_kept(event: Kept) -> None: ...


@app.on(Passing)
async def heard_passing(event: Passing) -> None: ...


if os.environ.get("BENCH_NOTES"):  # where the broker cannot be asked a hundred times a second how much it has left

    @app.handles(Noop)
    async def noted(_: Noop) -> None:
        tally.note()

else:

    @app.handles(Noop)
    async def noop(command: Noop) -> None: ...


@app.handles(Stamp)
async def stamp(command: Stamp) -> None:
    tally.since(command.at)


@app.handles(Mask)
async def mask(command: Mask) -> None: ...


@app.handles(Shared)
async def shared(command: Shared) -> None:
    if command.at:
        tally.since(command.at)
    else:
        tally.note()
    if command.seconds:
        await asyncio.sleep(command.seconds)


@app.handles(Pause)
async def pause(command: Pause) -> None:
    await asyncio.sleep(command.seconds)
    tally.since(command.at)


@app.handles(Block)
def block(command: Block) -> None:
    time.sleep(command.seconds)
    tally.since(command.at)


@app.handles(Burn)
def burn(command: Burn) -> None:
    tally.note()
    burn_for(command.seconds)


def burn_for(seconds: float) -> None:
    """Compute for so long; the interpreter's lock is given up only when it asks for it."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        sum(range(10_000))
