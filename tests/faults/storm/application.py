"""The application under the storm: its handlers write down that they start and end, and what they do takes effect through an inbox.

It runs in a folder of its own: CHAPPE_APP=tests.faults.storm.application:app.
"""

from __future__ import annotations

import asyncio
import functools
import os
import random
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Self

import apsw

from chappe import App, Command, Context, Retry, every, replace
from tests.faults.storm.journal import Journal

app = App("storm")

RUNS = Path("runs")
EFFECTS = Path("effects.db")
AGAIN = Retry(30, delay=0.05, factor=1.0)
PACE = float(os.environ.get("STORM_PACE", "0.01"))  # seconds that a handler takes on average


class Work(Command, queue="work", retry=AGAIN):
    """Something to do; it fails in the first attempt if it is told to, and may yield an `Echo`."""

    name: str
    payload: str = ""
    fails: bool = False
    echoes: bool = False


class Echo(Command, queue="echoes", retry=AGAIN):
    """What a `Work` yields: it leaves with its acknowledgement or not at all."""

    name: str


class Step(Command, queue="steps", key="{lane}", retry=AGAIN):
    """One of a row: the steps of a lane run one after the other, in their order."""

    name: str
    lane: str
    number: int
    fails: bool = False


class Pair(Command, queue="pairs", retry=AGAIN):
    """Something with two handlers: the one that finished is not run again."""

    name: str


class Mask(Command, queue="masks", key="{lodging}", retry=AGAIN):
    """What to synchronise: pending masks of one lodging become one."""

    lodging: int
    fields: frozenset[str]

    def merge(self, newer: Self) -> Self:
        return replace(self, fields=self.fields | newer.fields)


class Tick(Command, queue="ticks", retry=AGAIN):
    """One for each second, from the scheduler."""


app.schedule(every(1.0), Tick(), name="ticks")


def payload_of(name: str, size: int) -> str:
    """Return what a message of this name carries."""
    return (f"{name}/" * (size // (len(name) + 1) + 1))[:size]


@functools.cache
def journal() -> Journal:
    """Return the journal of this process."""
    return Journal(RUNS, "worker")


@functools.cache
def effects() -> apsw.Connection:
    """Open the handlers' own database: an inbox that takes every message once, and what was done for it."""
    db = apsw.Connection(str(EFFECTS))
    db.set_busy_timeout(20_000)
    db.execute("pragma journal_mode=wal; pragma synchronous=off")
    db.execute("create table if not exists inbox (id text primary key) strict, without rowid")
    db.execute("create table if not exists effect (name text not null, id text not null) strict")
    return db


def take_effect(identity: str, names: Iterable[str]) -> None:
    """Do once what a message asks for, however often it is handled."""
    db = effects()
    db.execute("begin immediate")
    db.execute("insert or ignore into inbox values (?)", (identity,))
    if db.changes():
        db.executemany("insert into effect values (?, ?)", [(name, identity) for name in names])
    db.execute("commit")


async def _work(identity: str, names: list[str], scope: str = "") -> None:
    await asyncio.sleep(random.expovariate(1 / PACE))
    take_effect(identity + scope, names)


async def _handle(context: Context, kind: str, names: list[str], *, key: str = "", fails: bool = False) -> None:
    journal().write("start", context.id, f"{kind} {key} {context.attempt} {','.join(names)}")
    if fails and context.attempt == 1:
        await asyncio.sleep(random.expovariate(1 / PACE))
        journal().write("raise", context.id)
        raise ConnectionError("try again")
    await _work(context.id, names)
    journal().write("end", context.id)


@app.handles(Work)
async def work(command: Work, context: Context) -> AsyncIterator[Echo]:
    if command.payload != payload_of(command.name, len(command.payload)):
        journal().write("damaged", context.id, command.name)
    await _handle(context, "work", [command.name], fails=command.fails)
    if command.echoes:
        yield Echo(name=f"{command.name}/echo")


@app.handles(Echo)
async def echo(command: Echo, context: Context) -> None:
    await _handle(context, "echo", [command.name])


@app.handles(Step)
async def step(command: Step, context: Context) -> None:
    await _handle(context, "step", [command.name], key=command.lane, fails=command.fails)


@app.handles(Pair)
async def first_of_pair(command: Pair, context: Context) -> None:
    journal().write("start", context.id, f"pair  {context.attempt} {command.name}")
    await _work(context.id, [f"{command.name}/first"], "/first")


@app.handles(Pair)
async def second_of_pair(command: Pair, context: Context) -> None:
    journal().write("second", context.id, command.name)
    await _work(context.id, [f"{command.name}/second"], "/second")
    journal().write("end", context.id)


@app.handles(Mask)
async def mask(command: Mask, context: Context) -> None:
    await _handle(context, "mask", sorted(command.fields), key=f"lodging{command.lodging}")


@app.handles(Tick)
async def tick(command: Tick, context: Context) -> None:
    await _handle(context, "tick", [f"tick/{context.sent_at:.6f}"])
