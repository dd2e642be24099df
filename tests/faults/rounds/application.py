"""The application under the rounds: what it handles is written to a journal, one file for each process, before and after."""

from __future__ import annotations

import asyncio
import os
import time
from functools import cache
from pathlib import Path

from chappe import App, Command, Context, Retry, replace
from tests.faults.rounds.plants import PLANTS

app = App("rounds")

KEYS = 20


class Step(Command, queue="steps"):
    """What only RabbitMQ keeps."""

    name: str


class Stumble(Command, queue="stumbles", retry=Retry(10, delay=0.2, factor=1.0)):
    """What fails once: its retry waits in PostgreSQL, and its ticket in RabbitMQ."""

    name: str


class Mask(Command, queue="masks", key="{property_id}"):
    """What is merged with what is pending of its property."""

    property_id: int
    names: frozenset[str]

    def merge(self, newer: Mask) -> Mask:
        return replace(self, names=self.names | newer.names)


@cache
def _journal() -> int:
    folder = Path(os.environ["ROUNDS_FOLDER"]) / "runs"
    return os.open(folder / str(os.getpid()), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)


def write(word: str, *names: str) -> None:
    """Add lines at once: what is in the page cache survives a kill."""
    now = time.time()
    os.write(_journal(), "".join(f"{now:.6f} {word} {name}\n" for name in names).encode())


@app.handles(Step)
async def step(command: Step) -> None:
    write("start", command.name)
    await asyncio.sleep(0.001)
    write("done", command.name)


@app.handles(Stumble)
async def stumble(command: Stumble, context: Context) -> None:
    write("start", command.name)
    if context.attempt == 1:
        raise RuntimeError("the first attempt always fails")
    write("done", command.name)


@app.handles(Mask)
async def mask(command: Mask) -> None:
    write("start", *command.names)
    await asyncio.sleep(0.002)
    write("done", *command.names)


if plant := os.environ.get("ROUNDS_PLANT"):
    PLANTS[plant][0]()
