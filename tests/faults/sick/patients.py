"""A file with every kind of row in it, as a killed engine leaves it, and what an engine delivers from it when it was damaged.

Each body carries a checksum of its own, so that a wrong payload is known by itself.
"""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import apsw

from chappe.engines.contract.broker import Ack, Dead, Retry
from chappe.engines.file import preflight
from chappe.engines.file.broker import FileBroker
from chappe.engines.file.server import Engine
from chappe.engines.file.store import store_of
from chappe.errors import ChappeError
from chappe.messages.capabilities import Exchange
from chappe.messages.envelope import Envelope, Options, Publication
from chappe.messages.topology import Binding, Queue, Topology

QUEUES = ("orders", "push.airbnb", "seldom")
TOPOLOGY = Topology(
    (Exchange("events", "topic", archive=86400.0),),
    (*(Queue(name) for name in (*QUEUES, "passing")), Queue("log", (Binding("events", "#"),))),
)
SOON = 3600.0


def body(name: str, size: int) -> bytes:
    """Return a body that says who it is, and holds the checksum of what it says."""
    text = "".join(random.Random(name).choices("abcdefghijklmnopqrstuvwxyz ", k=size))
    return json.dumps({"name": name, "text": text, "sum": zlib.crc32(f"{name}{text}".encode())}).encode()


def name_of(envelope: Envelope) -> str | None:
    """Return the name in a body, or nothing if the body is not what was sent."""
    try:
        said = json.loads(envelope.body)
        return said["name"] if said["sum"] == zlib.crc32(f"{said['name']}{said['text']}".encode()) else None
    except (ValueError, KeyError, TypeError):
        return None


def publication(name: str, queue: str, size: int = 300, *, exchange: str = "", delay: float = 0.0, **options: object) -> Publication:
    """Return a publication with a checked body."""
    made = Envelope(f"00000000-0000-7000-8000-{zlib.crc32(name.encode()):012x}", "work", body(name, size), 1.0)
    return Publication(made, queue, exchange, delay=delay, options=Options(**options) if options else None)  # type: ignore[arg-type]


class HttpProtocol(NamedTuple):
    """A file as a killed engine left it: `ready`, `delayed`, `dead` and `archived` are the names of what is in it."""

    path: Path
    ready: frozenset[str]
    delayed: frozenset[str]
    dead: frozenset[str]
    archived: frozenset[str]

    @property
    def everything(self) -> frozenset[str]:
        """The names of all messages that must not be lost."""
        return self.ready | self.delayed | self.dead

    def copy(self, folder: Path) -> Path:
        """Copy the file and its log into a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        for source in self.path.parent.glob(f"{self.path.name}*"):
            if source.name.removeprefix(self.path.name) in ("", "-wal", "-shm"):
                shutil.copy(source, folder / source.name)
        return folder / self.path.name


async def _live(path: Path, count: int, *, checkpoint: bool) -> dict[str, set[str]]:
    """Publish, settle, retry and bury, then leave the file as kill -9 does."""
    engine = Engine(path, grace=0.0)
    broker = FileBroker(path, engine=engine)
    store = store_of(broker)
    names: dict[str, set[str]] = {state: set() for state in ("ready", "delayed", "dead", "archived")}
    await broker.declare(TOPOLOGY)
    await store.fire("nightly", 1_700_000_000.0, ())
    for n in range(count):
        queue = QUEUES[n % 3]
        size = 40 if n % 7 else 1500 if n % 49 else 9000  # rows within a page, beyond one, and over several
        kind = n % 20
        if kind == 11:
            await broker.publish([publication(f"delayed-{n}", queue, size, delay=SOON + n)])
            names["delayed"].add(f"delayed-{n}")
        elif kind == 13:
            await broker.publish([publication(f"event-{n}", "bid.raised", size, exchange="events")])
            names["ready"].add(f"event-{n}")
            names["archived"].add(f"event-{n}")
        elif kind == 17:
            await broker.publish([publication(f"keyed-{n}", queue, size, key=f"k{n % 3}", tracked=True, idempotency_key=f"i{n}")])
            names["ready"].add(f"keyed-{n}")
        else:
            await broker.publish([publication(f"plain-{n}", queue, size)])
            names["ready"].add(f"plain-{n}")
    async with broker.consume(QUEUES, prefetch=count) as consumer:
        deliveries = await consumer.receive(count // 3, 1.0)
        for number, delivery in enumerate(deliveries):
            name = str(name_of(delivery.envelope))
            names["ready"].discard(name)
            if number % 5 == 0:
                await store.mark(delivery.envelope.id, "first", result=b"1")
                await consumer.settle([Retry(delivery.tag, 0.0, error="Traceback: it failed")])
                names["ready"].add(name)
            elif number % 5 == 1:
                await consumer.settle([Dead(delivery.tag, "rejected", "Traceback: we do not sell to Eve")])
                names["dead"].add(name)
            elif number % 5 == 2:
                await consumer.settle([Retry(delivery.tag, SOON, error="later")])
                names["delayed"].add(name)
            else:
                await consumer.settle([Ack(delivery.tag)])
    await broker.publish([publication(f"ended-{n}", "passing", 200) for n in range(40)])
    async with broker.consume(["passing"], prefetch=40) as consumer:  # what had ended stays on pages that are not in use any more
        await consumer.settle([Ack(delivery.tag) for delivery in await consumer.receive(40, 1.0)])
    if checkpoint:
        engine.ledger.turn.db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    await broker.close()
    return names


def patient(folder: Path, count: int = 400, *, checkpoint: bool = False) -> HttpProtocol:
    """Make a file and take it from its living engine; with `checkpoint` it is all in the database, else most of it in the log."""
    folder.mkdir(parents=True, exist_ok=True)
    living = folder / "living" / "chappe.db"
    living.parent.mkdir()

    async def run() -> dict[str, set[str]]:
        names = await _live(living, count, checkpoint=checkpoint)
        for suffix in ("", "-shm"):
            shutil.copy(f"{living}{suffix}", folder / f"chappe.db{suffix}")
        log = Path(f"{living}-wal").read_bytes().rstrip(b"\0")
        (folder / "chappe.db-wal").write_bytes(log + bytes(8192) if log else b"")  # of the zeros behind it, a page or two are enough
        return names

    names = asyncio.run(run())
    return HttpProtocol(folder / "chappe.db", *(frozenset(names[state]) for state in ("ready", "delayed", "dead", "archived")))


class Outcome(NamedTuple):
    """What an engine made of a file: `error` if it refused or stopped, and the names of what it gave out or showed."""

    error: str | None
    given: frozenset[str]
    damaged: int
    wrong: int
    refused: bool = False


def run_engine(path: Path) -> Outcome:
    """Open a file as an engine does, take and end everything that is ready, and look at what is delayed and dead."""
    return asyncio.run(_run_engine(path))


async def _run_engine(path: Path) -> Outcome:
    try:
        preflight.refuse(path)
        engine = Engine(path, grace=0.0)
    except ChappeError as error:
        return Outcome(f"{type(error).__name__}: {error}", frozenset(), 0, 0, refused=True)
    except apsw.Error as error:
        return Outcome(f"not said: {error}", frozenset(), 0, 0, refused=True)
    broker = FileBroker(path, engine=engine, deadline=5.0)
    found = _Found()
    reading = asyncio.ensure_future(_read(broker, found, list(engine.ledger.turn.routes.queues)))
    await asyncio.wait((reading, engine.stopped), return_when=asyncio.FIRST_COMPLETED)
    error: str | None = None
    if engine.stopped.done():
        reading.cancel()
        error = f"stopped: {engine.stopped.result()}"
    elif reading.exception() is not None:
        error = f"{type(reading.exception()).__name__}: {reading.exception()}"
    await asyncio.gather(reading, return_exceptions=True)
    await broker.close()
    if not engine.stopped.done():
        engine.close()
    else:
        _abandon(engine)
    return Outcome(error, frozenset(found.names), found.damaged, found.wrong)


class _Found:
    def __init__(self) -> None:
        self.names: set[str] = set()
        self.damaged = 0
        self.wrong = 0

    def see(self, envelopes: Iterable[Envelope]) -> None:
        for envelope in envelopes:
            if envelope.type == "chappe.damaged":
                self.damaged += 1
            elif (name := name_of(envelope)) is None:
                self.wrong += 1
            else:
                self.names.add(name)


async def _read(broker: FileBroker, found: _Found, queues: list[str]) -> None:
    if queues:
        async with broker.consume(queues, prefetch=1000) as consumer:
            while deliveries := await consumer.receive(1000, 0.002):
                found.see(delivery.envelope for delivery in deliveries)
                await consumer.settle([Ack(delivery.tag) for delivery in deliveries])
    store = store_of(broker)
    for queue in queues:
        for state in ("ready", "delayed"):  # what is still ready waits for a key that a delayed message holds
            found.see(message.envelope for message in (await store.look(queue, state, limit=1000)).messages)
    found.see(letter.envelope for letter in await store.letters(limit=1000))


def _abandon(engine: Engine) -> None:
    """Leave the file as the death of the process does."""
    engine.ledger.turn.db.close()
    engine._ownership.close()
    for timer in [*engine._timers, *([engine._due] if engine._due else [])]:
        timer.cancel()
