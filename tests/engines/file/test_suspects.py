"""Who is blamed for a dead worker, and who runs what is suspected of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from chappe.engines.contract.broker import Ack, Dead, Delivery, Depth, Retry
from chappe.engines.contract.letters import Letter
from chappe.engines.file.broker import FileBroker, FileConsumer
from chappe.engines.file.running_tables import BLOCKED, KILL_AFTER, folder_of
from chappe.engines.file.server import Engine
from chappe.engines.file.store import store_of
from chappe.engines.file.suspects import AWAITED, DRAINED_AFTER
from chappe.messages.envelope import Envelope, Options, Publication
from chappe.messages.topology import Topology, bind
from chappe.worker.running_table import RunningTable

from ...waiting import auntil

WAIT = 30.0


def message(identity: str, queue: str = "q", **options: Any) -> Publication:
    return Publication(Envelope(identity, "t", b"{}"), queue, options=Options(**options) if options else None)


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class Host:
    """An engine in this process, and workers that may die."""

    def __init__(self, path: Path) -> None:
        self.clock = Clock()
        self.path = path
        self.engine = Engine(path, grace=0.0, now=self.clock)
        self.broker = FileBroker(path, engine=self.engine)
        self.store = store_of(self.broker)

    async def restart(self) -> None:
        """End the engine in order and start another."""
        await self.broker.close()
        self.engine.close()
        self.engine = Engine(self.path, grace=0.0, now=self.clock)
        self.broker = FileBroker(self.path, engine=self.engine)
        self.store = store_of(self.broker)

    async def worker(self, **info: Any) -> Mortal:
        worker = Mortal(self)
        await worker.open(info)
        return worker

    async def turn(self) -> None:
        """Have the engine look at everything again."""
        self.engine.schedule()
        await self.broker.depth("q")

    async def letter(self) -> Letter:
        (letter,) = await self.store.letters()
        return letter


class Mortal:
    """A worker with a running table."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self.table = RunningTable(folder_of(host.path), 20)
        self.broker = FileBroker(host.path, engine=host.engine)

    async def open(self, info: dict[str, Any]) -> None:
        self.broker.info = {"table": self.table.path.name, "pool": "shop", "pid": 4242, **info}
        self.consumer = FileConsumer(self.broker, ["q"], 100)
        await self.broker.call("ping")

    async def take(self, limit: int = 10) -> list[Delivery]:
        return await self.consumer.receive(limit, WAIT)

    def waits(self, limit: int = 10) -> asyncio.Task[list[Delivery]]:
        return asyncio.ensure_future(self.take(limit))

    def begin(self, *deliveries: Delivery, executing: bool = False) -> None:
        for delivery in deliveries:
            slot = next(slot for slot in range(20) if not self.table.running(slot))
            self.table.begin(slot, delivery.tag)
            self.table.step(slot, executing)

    async def die(self) -> None:
        await self.broker.close()
        turns = self._host.engine.turns
        await auntil(lambda: self._host.engine.turns > turns, "the engine to hear of the death")


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    made = Host(tmp_path / "chappe.db")
    await made.broker.declare(Topology(queues=(bind("q"), bind("r"))))
    yield made
    await made.broker.close()
    made.engine.close()


def ids(deliveries: list[Delivery]) -> list[str]:
    return [delivery.envelope.id for delivery in deliveries]


async def kill(host: Host, executing: int = 1, beside: int = 2) -> None:
    """Publish messages, and kill a worker that has begun all of them and executes the first."""
    await host.broker.publish([message(f"m{n}") for n in range(executing + beside)])
    worker = await host.worker()
    taken = await worker.take()
    worker.begin(*taken[:executing], executing=True)
    worker.begin(*taken[executing:])
    await worker.die()


async def test_what_executed_is_a_suspect_that_runs_alone_and_its_neighbours_lose_nothing(host: Host) -> None:
    await kill(host)
    assert await host.broker.depth("q") == Depth(ready=3)
    worker = await host.worker()
    (suspect,) = await worker.take()
    assert (suspect.envelope.id, suspect.attempt) == ("m0", 1)
    waiting = worker.waits()
    await host.turn()
    assert not waiting.done(), "nothing is lent beside it"
    assert await worker.consumer.settle([Ack(suspect.tag)]) == []
    assert [(d.envelope.id, d.attempt) for d in await waiting] == [("m1", 1), ("m2", 1)]


async def test_where_nothing_executed_all_that_had_begun_run_together_once_more_and_then_one_after_the_other(host: Host) -> None:
    await kill(host, executing=0, beside=3)
    worker = await host.worker()
    taken = await worker.take()
    assert [(d.envelope.id, d.attempt) for d in taken] == [("m0", 1), ("m1", 1), ("m2", 1)]
    worker.begin(*taken)
    await worker.die()
    worker = await host.worker()
    for identity in ("m0", "m1", "m2"):
        (suspect,) = await worker.take()
        assert suspect.envelope.id == identity
        await worker.consumer.settle([Ack(suspect.tag)])


async def test_a_worker_that_dies_without_having_begun_anything_makes_no_suspects(host: Host) -> None:
    await host.broker.publish([message("a"), message("b")])
    worker = await host.worker()
    assert len(await worker.take()) == 2
    await worker.die()
    other = await host.worker()
    assert [(d.envelope.id, d.attempt) for d in await other.take()] == [("a", 1), ("b", 1)]


async def test_three_deaths_make_a_dead_letter_that_tells_of_each_and_its_attempts_are_not_spent(host: Host) -> None:
    await kill(host, beside=0)
    for _ in range(2):
        worker = await host.worker()
        (suspect,) = await worker.take()
        assert suspect.attempt == 1
        worker.begin(suspect, executing=True)
        await worker.die()
    letter = await host.letter()
    assert (letter.reason, letter.attempts, letter.deaths) == ("worker_lost", 1, 3)
    assert letter.error == '3 workers died while they ran this; the last time worker "shop" (process 4242) died while it ran this'
    assert [(attempt, error) for _, attempt, error in letter.history] == [(1, 'worker "shop" (process 4242) died while it ran this')] * 3
    assert await host.broker.depth("q") == Depth(dead=1)


async def test_a_suspect_that_is_done_is_forgotten_with_its_deaths(host: Host) -> None:
    await kill(host, beside=0)
    worker = await host.worker()
    (suspect,) = await worker.take()
    await worker.consumer.settle([Ack(suspect.tag)])
    assert host.engine.ledger.turn.db.execute("select count(*) from death").fetchone() == (0,)
    assert host.engine.ledger.turn.db.execute("select count(*) from failure").fetchone() == (0,)


@pytest.mark.parametrize("after", [0.0, 5.0])
async def test_a_suspect_that_fails_in_order_is_none_any_more_but_its_deaths_are_remembered(host: Host, after: float) -> None:
    await kill(host, beside=1)
    worker = await host.worker()
    (suspect,) = await worker.take()
    await worker.consumer.settle([Retry(suspect.tag, after, error="failed")])
    host.clock.now += 10.0
    taken = await worker.take()
    assert sorted(ids(taken)) == ["m0", "m1"], "it runs beside others again"
    (again,) = (delivery for delivery in taken if delivery.envelope.id == "m0")
    assert again.attempt == 2
    await worker.consumer.settle([Dead(again.tag, "no")])
    assert (await host.letter()).deaths == 1


async def test_a_suspect_that_is_given_back_without_having_begun_stays_one(host: Host) -> None:
    await kill(host)
    worker = await host.worker()
    (suspect,) = await worker.take()
    await worker.consumer.settle([Retry(suspect.tag, counted=False)])
    assert ids(await worker.take()) == ["m0"]
    await worker.die()
    assert ids(await (await host.worker()).take()) == ["m0"]


async def test_only_what_the_worker_blames_is_a_suspect(host: Host) -> None:
    await host.broker.publish([message("a"), message("b")])
    worker = await host.worker()
    taken = await worker.take()
    worker.begin(*taken, executing=True)
    worker.table.blame(taken[1].tag, BLOCKED, 30.0)
    await worker.die()
    other = await host.worker()
    assert ids(await other.take()) == ["b"]
    assert host.engine.ledger.turn.db.execute("select error from failure").fetchall() == [
        ("its worker was ended: it kept the event loop for 30 s",)
    ]


@pytest.mark.parametrize("after", [0.0, 7.0])
async def test_what_outruns_its_kill_after_has_failed_an_attempt_and_runs_alone_until_they_are_spent(host: Host, after: float) -> None:
    await host.broker.publish([message("a"), message("b")])
    for attempt in (1, 2):
        worker = await host.worker()
        (taken, *beside) = await worker.take()
        assert (taken.envelope.id, taken.attempt) == ("a", attempt)
        assert ids(beside) == (["b"] if attempt == 1 else [])
        worker.begin(taken, *beside, executing=True)
        worker.table.blame(taken.tag, KILL_AFTER, 5.0, is_last=attempt == 2, after=after)
        await worker.die()
        host.clock.now += after
    letter = await host.letter()
    assert (letter.reason, letter.attempts, letter.deaths) == ("attempts spent", 2, 0)
    assert letter.error == "its worker was ended: it ran longer than its kill_after of 5 s"
    assert [(d.envelope.id, d.attempt) for d in await (await host.worker()).take()] == [("b", 1)]


async def test_suspects_are_found_again_after_a_restart_of_the_engine(host: Host) -> None:
    await kill(host)
    await host.restart()
    worker = await host.worker()
    assert ids(await worker.take()) == ["m0"]


async def test_a_suspect_keeps_the_turn_of_its_key_also_over_a_restart(host: Host) -> None:
    await host.broker.publish([message("a", key="k"), message("b", key="k"), message("c")])
    worker = await host.worker()
    taken = await worker.take()
    assert ids(taken) == ["a", "c"]
    worker.begin(taken[0], executing=True)
    await worker.die()
    await host.restart()
    apart = await host.worker(suspects=True, queues=["q"])
    ordinary = await host.worker()
    assert ids(await ordinary.take()) == ["c"], "b waits for a"
    (suspect,) = await apart.take()
    assert suspect.envelope.id == "a"
    await apart.consumer.settle([Ack(suspect.tag)])
    assert ids(await ordinary.take()) == ["b"]


async def test_a_session_for_suspects_gets_nothing_else_and_others_get_none_while_it_is_there(host: Host) -> None:
    apart = await host.worker(suspects=True, queues=["q"])
    waiting = apart.waits()
    await kill(host)
    (suspect,) = await waiting
    assert suspect.envelope.id == "m0"
    await host.broker.publish([message("poison")])
    ordinary = await host.worker()
    taken = await ordinary.take()
    assert ids(taken) == ["m1", "m2", "poison"]
    ordinary.begin(taken[-1], executing=True)
    await ordinary.die()
    other = await host.worker()
    assert ids(await other.take()) == ["m1", "m2"], "the other suspect waits for who is there for it"
    await apart.consumer.settle([Ack(suspect.tag)])
    assert ids(await apart.take()) == ["poison"]


async def test_others_take_over_when_a_session_for_suspects_does_not_come_back(host: Host) -> None:
    apart = await host.worker(suspects=True, queues=["q"])
    await kill(host, beside=0)
    (suspect,) = await apart.take()
    apart.begin(suspect, executing=True)
    await apart.die()
    ordinary = await host.worker()
    waiting = ordinary.waits()
    await host.turn()
    assert not waiting.done(), "it may come back in a moment"
    host.clock.now += AWAITED + 1.0
    await host.turn()
    assert ids(await waiting) == ["m0"]


async def test_where_nobody_is_free_one_session_is_kept_free_after_a_while(host: Host) -> None:
    busy, other = await host.worker(), await host.worker()
    await host.broker.publish([message(f"b{n}") for n in range(3)])
    held = await busy.take(1)
    theirs = await other.take(2)
    await kill(host, beside=0)
    waiting = busy.waits()
    theirs_too = other.waits()
    host.clock.now += DRAINED_AFTER + 1.0
    await host.turn()
    await host.broker.publish([message("new1"), message("new2")])
    assert ids(await theirs_too) == ["new1", "new2"], "who holds less is kept free"
    assert not waiting.done()
    await busy.consumer.settle([Ack(held[0].tag)])
    assert ids(await waiting) == ["m0"]
    assert theirs
