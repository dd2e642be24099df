"""Everything that the engine must remember, asked of the real one by real clients in seeded disorder."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random
from typing import Any, Final

import msgspec

from chappe.bounds import IDEMPOTENCY_KEPT
from chappe.engines.contract.broker import Ack, Dead, Delivery, Receipt, Retry, Settlement
from chappe.engines.file.broker import FileBroker, FileConsumer
from chappe.engines.file.running_tables import HEADER, SLOT, folder_of
from chappe.engines.file.store import store_of
from chappe.errors import Unroutable
from chappe.messages.capabilities import Exchange
from chappe.messages.envelope import Envelope, Options, Publication
from chappe.messages.topology import Topology, bind

from .tape import Ready, Tape
from .vfs import recording
from .witness import WitnessedEngine, witnessed

NAME: Final = "chappe.db"
TOPOLOGY: Final = Topology(
    exchanges=(Exchange("events", "topic", archive=400.0), Exchange("all", "fanout")),
    queues=(
        bind("work"),
        bind("masks"),
        bind("scrap"),
        bind("prices", "events:price.*"),
        bind("everything", "events:#", "all:"),
    ),
)
_CONSUMED: Final = ("work", "masks", "prices", "everything")
_NO_CHECKPOINT: Final = 1006  # SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE
_START: Final = 1_000_000.0
_PAUSES: Final = (*[0.5, 5.0, 40.0] * 10, 90_000.0)  # seldom long enough that what is kept for a day goes


class Clock:
    """A time that moves when it is told to."""

    def __init__(self) -> None:
        self.time = _START

    def __call__(self) -> float:
        return self.time


class Mill:
    """An engine and its clients, and what they do in one round."""

    def __init__(self, tape: Tape, path: Path, seed: int) -> None:
        self.clock = Clock()
        self._tape = tape
        self._path = path
        self._random = Random(seed)
        self._count = 0
        self._slot = 0.0
        self._engine: WitnessedEngine | None = None
        self._brokers: list[FileBroker] = []
        self._consumers: list[tuple[FileBroker, FileConsumer, list[Delivery]]] = []
        self._keys: list[Publication] = []

    # --- the engine's life

    async def start(self) -> None:
        """Bring up the engine, with two senders and two workers."""
        self._engine = WitnessedEngine(self._tape, self._path, self.clock)
        if not any(isinstance(event, Ready) for event in self._tape.events):
            self._tape.events.append(Ready())
        self._brokers = [self._connect() for _ in range(2)]
        await self._brokers[0].declare(TOPOLOGY)
        self._consumers = []
        for _ in range(2):
            await self._hire()

    async def stop(self, *, killed: bool = False) -> None:
        """End the engine politely, or as `kill -9` does: with its log as it is, and all that was lent."""
        engine = self._engine
        assert engine is not None
        assert not self._tape.waiting
        if killed:
            engine.ledger.turn.db.config(_NO_CHECKPOINT, 1)  # type: ignore[attr-defined]
            engine.ledger.turn._set_meta = lambda *_: None  # type: ignore[method-assign]
        engine.close()
        for broker in [*self._brokers, *(broker for broker, _, _ in self._consumers)]:
            await broker.close()
        self._engine = None

    async def send_alone(self) -> None:
        """Send where no engine runs: the sender owns the file for a moment."""
        broker = FileBroker(self._path, deadline=60.0)
        await broker.publish([self._message("work"), self._event()])
        await broker.publish([self._message("work", options=Options(idempotency_key=f"alone {self._count}"))])
        await broker.close()

    def _connect(self) -> FileBroker:
        return FileBroker(self._path, engine=self._engine, deadline=60.0)

    async def _hire(self) -> None:
        broker = self._connect()
        consumer = FileConsumer(broker, _CONSUMED, 30)
        broker.consumers.add(consumer)
        self._consumers.append((broker, consumer, []))
        await broker.depth("work")

    # --- one round

    async def round(self) -> None:
        """Do a few things at once, so that they share a turn of the engine, and then let time pass."""
        doings = self._random.choices(*zip(*self._weights().items(), strict=True), k=self._random.randint(1, 5))
        results = await asyncio.gather(*(doing() for doing in dict.fromkeys(doings)), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, Unroutable):
                raise result
        if self._random.random() < 0.05:
            await self._vanish()
        if self._random.random() < 0.3:
            self.clock.time += (pause := self._random.choice(_PAUSES))
            if pause > IDEMPOTENCY_KEPT:
                self._keys.clear()
            assert self._engine is not None
            self._engine.schedule()

    def _weights(self) -> dict[Callable[[], Awaitable[Any]], int]:
        return {
            self._send_one: 6, self._send_batch: 4, self._send_events: 4, self._send_late: 3, self._send_keyed: 3, self._send_mask: 4,
            self._send_twice: 3, self._send_nowhere: 1, self._send_large: 1, self._take: 14, self._settle: 14, self._mark: 3, self._fire: 3,
            self._read_letters: 2, self._scrap: 1, self._tidy: 1,
        }  # fmt: skip

    def _sender(self) -> FileBroker:
        return self._random.choice(self._brokers)

    def _message(self, queue: str, **more: Any) -> Publication:
        self._count += 1
        body = msgspec.json.encode({"n": self._count, "text": "x" * self._random.choice((10, 200, 900))})
        return Publication(Envelope(f"m{self._count}", "t", body, self.clock.time), queue, **more)

    def _event(self, **more: Any) -> Publication:
        return self._message(self._random.choice(("price.up", "price.down", "stock.low")), exchange="events", **more)

    def _several(self) -> list[Publication]:
        kinds = (
            lambda: self._message("work"),
            self._event,
            lambda: self._message("work", delay=20.0),
            lambda: self._message("", exchange="all"),
        )
        return [self._random.choice(kinds)() for _ in range(self._random.randint(1, 3))]

    async def _send_one(self) -> None:
        await self._sender().publish([self._message("work", priority=self._random.choice((0, 0, 5)))])

    async def _send_batch(self) -> None:
        await self._sender().publish([p for _ in range(self._random.randint(2, 4)) for p in self._several()])

    async def _send_events(self) -> None:
        await self._sender().publish([self._event()])

    async def _send_late(self) -> None:
        delay = self._random.choice((1.0, 30.0, 300.0))
        await self._sender().publish([self._message("work", delay=delay, options=Options(tracked=True))])

    async def _send_keyed(self) -> None:
        key = f"key {self._random.randint(1, 4)}"
        unique = self._random.choice((None, f"unique {self._random.randint(1, 9)}"))
        unique_for = self._random.choice((None, 30.0))
        keyed = self._message("work", options=Options(key=key, unique=unique, unique_for=unique_for, tracked=True))
        await self._sender().publish([keyed, self._message("work")])  # a publication that stores nothing need not be remembered at all

    async def _send_mask(self) -> None:
        """Send a mask as the bus does: merge it with the one that is pending until it is stored."""
        broker, key = self._sender(), f"house {self._random.randint(1, 5)}"
        mask = self._message("masks", options=Options(key=key, merges=True, tracked=True))
        tried = mask
        while True:
            receipt, _ = await broker.publish([tried, self._message("work")])
            if receipt.outcome != "pending":
                return
            tried = mask if receipt.pending is None else _merged(mask, receipt)

    async def _send_twice(self) -> None:
        """Send with a key of idempotency; sometimes one that was used before."""
        if not self._keys or self._random.random() < 0.6:
            self._keys.append(self._message("work", options=Options(idempotency_key=f"key {self._count}", fingerprint="f")))
            del self._keys[:-5]
        await self._sender().publish([self._random.choice(self._keys), self._message("work")])

    async def _send_nowhere(self) -> None:
        await self._sender().publish([self._message("work"), self._message("nowhere")])

    async def _send_large(self) -> None:
        body = self._random.randbytes(self._random.choice((5_000, 30_000)))
        self._count += 1
        await self._sender().publish([Publication(Envelope(f"m{self._count}", "t", body), "work"), *self._several()])

    async def _scrap(self) -> None:
        broker = self._sender()
        await broker.publish([self._message("scrap"), self._message("scrap", delay=1000.0)])
        if self._random.random() < 0.5:
            await broker.purge("scrap")

    # --- workers

    async def _take(self) -> None:
        _, consumer, held = self._random.choice(self._consumers)
        held += await consumer.receive(self._random.randint(4, 30), 0.0)

    async def _settle(self) -> None:
        _, consumer, held = self._random.choice(self._consumers)
        some = held[: self._random.randint(1, 20)]
        del held[: len(some)]
        if some:
            refused = await consumer.settle([self._verdict(delivery) for delivery in some])
            assert not refused, refused

    def _verdict(self, delivery: Delivery) -> Settlement:
        kinds: list[Callable[[], Settlement]] = [
            lambda: Ack(delivery.tag),
            lambda: Ack(delivery.tag, tuple(self._several()), b"result", marked=True),
            lambda: Retry(delivery.tag, error="failed", note="a note"),
            lambda: Retry(delivery.tag, self._random.choice((3.0, 60.0)), error="failed"),
            lambda: Retry(delivery.tag, counted=False),
            lambda: Dead(delivery.tag, "spent", "Traceback\nError: no"),
        ]
        return self._random.choices(kinds, (50, 22, 8, 8, 4, 8))[0]()

    async def _mark(self) -> None:
        broker, _, held = self._random.choice(self._consumers)
        if held:
            delivery = self._random.choice(held)
            handler = f"handler {self._random.randint(1, 2)}"
            await store_of(broker).mark(delivery.envelope.id, handler, self._several(), b"half")

    async def _vanish(self) -> None:
        """Have a worker die; it was running some of what it held."""
        broker, _, held = self._consumers.pop(self._random.randrange(2))
        table = folder_of(self._path) / f"{self._count}-a.running"
        table.parent.mkdir(mode=0o700, exist_ok=True)
        started = [delivery.tag for delivery in held if self._random.random() < 0.3]
        slots = b"".join(SLOT.pack(tag, 1, 0) for tag in started)
        table.write_bytes(HEADER.pack(time.monotonic(), 0, 0, 0, 0.0, 0.0) + slots)
        (connection,) = (c for c in self._connections() if c.session.name == broker.name)
        connection.session.info["table"] = table.name
        await broker.close()
        await self._hire()

    def _connections(self) -> list[Any]:
        assert self._engine is not None
        return list(self._engine.connections)

    # --- the store

    async def _fire(self) -> None:
        self._slot += self._random.choice((0, 60.0))
        await store_of(self._sender()).fire(f"schedule {self._random.randint(1, 2)}", self._slot, self._several())

    async def _read_letters(self) -> None:
        store = store_of(self._sender())
        letters = await store.letters(limit=20)
        if not letters:
            return
        letter = self._random.choice(letters)
        what = self._random.random()
        if what < 0.3:
            await store.edit_letter(letter.number, b'{"edited": true}')
        if what < 0.7:
            await store.retry_letters([letter.number])
        else:
            await store.discard_letters([letter.number for letter in letters[:4]])

    async def _tidy(self) -> None:
        assert self._engine is not None
        self._engine._prune()


def _merged(mask: Publication, receipt: Receipt) -> Publication:
    pending = receipt.pending
    assert pending is not None
    assert mask.options is not None
    body = b"[" + pending.body[-20:] + mask.envelope.body[:20] + b"]"
    envelope = msgspec.structs.replace(mask.envelope, id=pending.id, body=body)
    options = msgspec.structs.replace(mask.options, replaces=receipt.version, merged_ids=(pending.id, mask.envelope.id))
    return msgspec.structs.replace(mask, envelope=envelope, options=options)


async def _work(tape: Tape, path: Path, rounds: int, seed: int) -> None:
    mill = Mill(tape, path, seed)
    with witnessed(tape, mill.clock):
        await mill.start()
        for number in range(1, rounds + 1):
            await mill.round()
            if number % 40 == 0:
                await mill.stop(killed=number % 80 == 0)
                if number % 120 == 0:
                    await mill.send_alone()
                await mill.start()
        await mill.stop(killed=True)


def work(root: Path, *, rounds: int, seed: int, name: str = NAME) -> Tape:
    """Have the workload done on a file below a folder that was always there, and give its tape."""
    tape = Tape()
    with recording(tape, root, root / name) as recorder:
        asyncio.run(_work(tape, root / name, rounds, seed))
        recorder.check()
    assert not tape.waiting
    return tape
