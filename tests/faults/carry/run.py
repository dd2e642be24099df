"""One move between a file and RabbitMQ while messages are sent to the one and handled from both, and its account."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chappe import App
from chappe.connection import Connection
from chappe.engines.contract.broker import Ack, Dead, Delivery
from chappe.errors import BrokerError
from chappe.messages.capabilities import Exchange
from chappe.messages.envelope import Envelope, Options, Publication
from chappe.messages.topology import Topology, bind
from chappe.moving import Moved, Mover, Told
from chappe.settings import Settings

QUEUES = ("plain", "keyed", "later")
_HOUR = 3600.0
_AT_ONCE = 200
_SOON = 2.0


@dataclasses.dataclass
class Account:
    """Where each message was seen: handled at one of the engines, delayed or dead at the end."""

    sent: set[str] = dataclasses.field(default_factory=set[str])
    seen: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter[str])
    places: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter[str])
    order: dict[tuple[str, str], list[int]] = dataclasses.field(default_factory=dict[tuple[str, str], list[int]])

    def note(self, place: str, identity: str) -> None:
        """See a message."""
        self.seen[identity] += 1
        self.places[place] += 1

    def handle(self, place: str, delivery: Delivery) -> None:
        """See that a message was handled at one of the engines, after those of its key there: a key knows nothing of another engine."""
        self.note(place, delivery.envelope.id)
        if delivery.queue == "keyed":
            number = int(delivery.envelope.id[1:])
            self.order.setdefault((place, f"k{number % 50}"), []).append(number)

    @property
    def lost(self) -> list[str]:
        """What was sent and is nowhere."""
        return sorted(self.sent - self.seen.keys())

    @property
    def doubled(self) -> list[str]:
        """What was seen more than once."""
        return sorted(identity for identity, count in self.seen.items() if count > 1)


def _messages(count: int) -> list[Publication]:
    """Return messages of every kind: ready ones, some with a key or a priority, delayed ones, and those that will be dead."""
    found: list[Publication] = []
    for n in range(count):
        envelope = Envelope(f"m{n}", "export_messages", b'{"n":%d}' % n, 1.0)
        if n % 20 == 0:
            found.append(Publication(envelope, "later", delay=_HOUR, options=Options(unique=f"u{n}") if n % 40 == 0 else None))
        elif n % 20 == 1:
            found.append(Publication(envelope, "later", delay=0.5 + n % 7))
        elif n % 20 == 2:
            found.append(Publication(envelope, "keyed", options=Options(key=f"k{n % 50}")))
        else:
            found.append(Publication(envelope, "plain", priority=int(n % 3 == 0)))
    return found


async def _send(source: Connection, publications: list[Publication], account: Account) -> None:
    for batch in _batched(publications):
        await source.broker.publish(batch)
        account.sent |= {p.envelope.id for p in batch}


def _batched(publications: list[Publication]) -> list[list[Publication]]:
    return [publications[at : at + _AT_ONCE] for at in range(0, len(publications), _AT_ONCE)]


async def _bury_some(source: Connection, count: int) -> None:
    """Make dead letters of what comes first."""
    async with source.broker.consume(["plain"], prefetch=_AT_ONCE) as consumer:
        while count > 0:
            deliveries = await consumer.receive(min(count, _AT_ONCE), 1.0)
            assert not await consumer.settle([Dead(d.tag, "failed", f"error of {d.envelope.id}") for d in deliveries])
            count -= len(deliveries)


async def _handle(place: str, connection: Connection, account: Account, most: int, pause: float, stopped: asyncio.Event) -> None:
    """Handle what comes until it is stopped, as a worker would; what was not settled in time is not counted."""
    async with connection.broker.consume(list(QUEUES), prefetch=most) as consumer:
        while not stopped.is_set():
            deliveries = await consumer.receive(most, 1.0)
            await asyncio.sleep(pause)  # the work
            refused: set[int] = set()
            with contextlib.suppress(BrokerError):
                refused = {refusal.delivery for refusal in await consumer.settle([Ack(d.tag) for d in deliveries])}
            for delivery in deliveries:
                if delivery.tag not in refused:
                    account.handle(place, delivery)


async def _left(target: Connection, account: Account) -> None:
    """See what is delayed and dead in the end."""
    for queue in QUEUES:
        while True:
            found = await target.store.export_messages(queue, "delayed", limit=1000)
            for one in found:
                account.note("delayed", one.envelope.id)
                assert one.delay is not None and one.delay > _HOUR / 2, one
            if not found:
                break
            await target.store.delete_delayed(queue, [one.place for one in found])
        after = 0
        while found := await target.store.export_messages(queue, "dead", after=after, limit=1000):
            for one in found:
                account.note("dead", one.envelope.id)
                assert one.letter is not None and one.letter[1] == f"error of {one.envelope.id}", one
            after = found[-1].place


async def _is_at_rest(target: Connection) -> bool:
    """Tell whether only what is dead and what is due in an hour is left."""
    if any(q.ready + q.running for q in (await target.store.overview()).queues):
        return False
    first = [await target.store.export_messages(queue, "delayed", limit=1) for queue in QUEUES]  # the soonest
    return all((one.delay or 0.0) > _HOUR / 2 for found in first for one in found)


async def carry(
    folder: Path, urls: Mapping[str, str], count: int, tell: Told = lambda _: None, *, back: bool = False
) -> tuple[Account, list[Moved], dict[str, Any]]:
    """Send a half, begin to move, send the rest meanwhile; handle a little at the source and everything at the target.

    It moves from a file to the servers of these addresses, or `back` from those to a file.
    """
    file = f"sqlite:///{folder / 'chappe.db'}"
    engine = subprocess.Popen([sys.executable, "-m", "chappe", "--broker", file, "engine"], cwd=folder, stderr=subprocess.DEVNULL)
    ends = [Settings(broker=file, deadline=20.0), Settings(broker=urls["CHAPPE_BROKER"], store=urls["CHAPPE_STORE"], deadline=20.0)]
    if back:
        ends.reverse()
    source, target = (App(name, settings=settings) for name, settings in zip(("source", "target"), ends, strict=True))
    account, handling = Account(), list[asyncio.Task[None]]()
    try:
        old, new = await source.connection(), await target.connection()
        await old.broker.declare(Topology((Exchange("shop"),), tuple(bind(name, f"shop:{name}") for name in QUEUES)))
        publications = _messages(count)
        await _send(old, publications[: count // 2], account)
        await _bury_some(old, count // 50)
        started = time.monotonic()
        moving = asyncio.create_task(Mover(old, target, soon=_SOON).move((), tell))
        sending = asyncio.create_task(_send(old, publications[count // 2 :], account))
        handling.append(asyncio.create_task(_handle("source", old, account, 5, 0.2, stopped := asyncio.Event())))
        await asyncio.sleep(2.5)  # new queues are settled (docs/decisions/009)
        handling.append(asyncio.create_task(_handle("target", new, account, 100, 0.0, at_rest := asyncio.Event())))
        await sending
        stopped.set()
        moved = await moving
        seconds = time.monotonic() - started
        while not await _is_at_rest(new):
            await asyncio.sleep(0.2)
        at_rest.set()
        await asyncio.gather(*handling)  # cancelled, one could have settled and not noted it
        await _left(new, account)
        assert not any(q.ready + q.running + q.delayed + q.dead for q in (await old.store.overview()).queues)
    finally:
        for task in handling:
            task.cancel()
        await asyncio.gather(*handling, return_exceptions=True)
        await source.aclose()
        await target.aclose()
        engine.terminate()
        engine.wait(20)
    return account, moved, {"messages": count, "seconds": round(seconds, 1), "places": dict(account.places)}
