"""Failures in the middle of something: memory and file agree afterwards, and nobody is told what is not so."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import apsw
import msgspec
import pytest

from chappe.engines.contract.broker import Ack, Dead, Depth, Retry
from chappe.engines.file import endings, server
from chappe.engines.file.broker import FileBroker
from chappe.engines.file.endings import Endings
from chappe.engines.file.reserve import Reserve
from chappe.engines.file.server import Engine
from chappe.engines.file.wire import PROTOCOL, decode_answer, decode_request, frame
from chappe.errors import BrokerError, Rejected, StorageFull, Unroutable
from chappe.messages.envelope import Envelope, Options, Publication
from chappe.messages.topology import Topology, bind

from ...waiting import auntil


def message(identity: str, queue: str = "q", delay: float = 0.0, **options: Any) -> Publication:
    return Publication(Envelope(identity, "t", b"{}"), queue, delay=delay, options=Options(**options) if options else None)


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[Engine]:
    made = Engine(tmp_path / "chappe.db", grace=0.0)
    yield made
    made.close()


@pytest.fixture
async def broker(engine: Engine) -> AsyncIterator[FileBroker]:
    made = FileBroker(engine.ledger.turn.path, engine=engine)
    await made.declare(Topology(queues=(bind("q"), bind("r"))))
    yield made
    await made.close()


async def test_what_comes_while_a_queue_is_being_deleted_goes_with_it(
    engine: Engine, broker: FileBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endings, "_PURGED_AT_ONCE", 5)
    await broker.publish([message(f"m{n}") for n in range(40)] + [message(f"d{n}", delay=0.01) for n in range(40)])
    deleting = asyncio.ensure_future(broker.purge("q", delete=True))
    await asyncio.sleep(0)
    await broker.publish([message("other", "r")])
    await broker.publish([message("late"), message("later", delay=60.0)])
    assert not deleting.done()
    assert await deleting == 82
    with pytest.raises(Unroutable):
        await broker.publish([message("after")])
    rows = engine.ledger.turn.db.execute("select (select count(*) from ready), (select count(*) from delayed)").fetchone()
    assert rows == (1, 0), "only what waits in the other queue is left"
    await broker.declare(Topology(queues=(bind("q"),)))
    await broker.publish([message("again")])


async def test_a_deletion_that_is_refused_half_way_leaves_the_queue_in_use(broker: FileBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endings, "_PURGED_AT_ONCE", 5)
    await broker.publish([message(f"m{n}") for n in range(40)])
    async with broker.consume(["q"], prefetch=1) as consumer:
        deleting = asyncio.ensure_future(broker.purge("q", delete=True))
        await asyncio.sleep(0)
        (held,) = await consumer.receive(1, 60.0)
        with pytest.raises(BrokerError, match="running"):
            await deleting
        await broker.publish([message("later")])
        await consumer.settle([Ack(held.tag)])


def full_once(engine: Engine, monkeypatch: pytest.MonkeyPatch, *, times: int = 2) -> None:
    """Have the next commits find no room on the disk: the first, and the one with the room of the reserve."""
    commit = engine.ledger.turn._save_counters
    left = times

    def full() -> None:
        nonlocal left
        left -= 1
        if left >= 0:
            raise apsw.FullError("database or disk is full")
        commit()

    monkeypatch.setattr(engine.ledger.turn, "_save_counters", full)


async def test_a_deletion_that_meets_a_full_disk_leaves_the_queue_as_it_was(
    engine: Engine, broker: FileBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    await broker.publish([message("a")])
    full_once(engine, monkeypatch)
    with pytest.raises(StorageFull):
        await broker.purge("q", delete=True)
    await asyncio.sleep(0)
    assert await broker.depth("q") == Depth(ready=1), "neither gone from memory nor emptied behind the refusal"
    await auntil(lambda: not engine.ledger.turn.full, "room")
    await broker.declare(Topology(queues=(bind("q"),)))
    await broker.publish([message("b")])
    assert await broker.purge("q", delete=True) == 2


async def test_what_was_given_back_and_lent_again_in_a_turn_that_is_undone_is_held_as_before(
    engine: Engine, broker: FileBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = FileBroker(engine.ledger.turn.path, engine=engine)
    await broker.publish([message("a")])
    async with broker.consume(["q"], prefetch=1) as mine, other.consume(["q"], prefetch=1) as theirs:
        (held,) = await mine.receive(1, 60.0)
        waiting = asyncio.ensure_future(theirs.receive(1, 60.0))
        await auntil(lambda: engine.ledger.dispatch.receivers, "the other to wait")
        full_once(engine, monkeypatch)
        with pytest.raises(StorageFull):
            await mine.settle([Retry(held.tag, 0.0, counted=True, error="why")])
        assert await broker.depth("q") == Depth(running=1)
        assert await mine.settle([Retry(held.tag, 0.0, counted=True, error="why")]) == []
        assert [d.attempt for d in await waiting] == [2]
    await other.close()


async def test_a_turn_that_is_undone_and_done_again_is_counted_once(
    engine: Engine, broker: FileBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    await broker.publish([message("a"), message("b")])
    async with broker.consume(["q"], prefetch=2) as consumer:
        first, second = await consumer.receive(2, 60.0)
        full_once(engine, monkeypatch, times=1)
        await consumer.settle([Ack(first.tag), Dead(second.tag, "why")])
    queue = engine.ledger.turn.routes.queue("q")
    assert (queue.published, queue.done, queue.died) == (2, 1, 1)


async def test_a_refusal_is_remembered_with_what_was_stored_later(engine: Engine, broker: FileBroker) -> None:
    with pytest.raises(Unroutable):
        await broker.publish([message("a", "nowhere")])
    refused = broker.serial
    await broker.publish([message("b")])
    assert engine.ledger.turn.stored_of(broker.name) == (broker.serial, [refused])


class Raw:
    """A client that counts its requests itself, and hears nothing until it says hello."""

    def __init__(self, engine: Engine) -> None:
        self.answers: list[bytes] = []
        self._engine = engine
        self._connection = engine.attach(self.answers.append)

    async def say(self, *requests: tuple[int, str, tuple[Any, ...]]) -> None:
        """Make requests that share a turn."""
        turns = self._engine.turns
        for request in requests:
            self._engine.submit(self._connection, decode_request(frame(request)[4:]))
        await auntil(lambda: self._engine.turns > turns, "the turn")

    async def publish(self, *places: tuple[int, str]) -> None:
        """Publish each to a queue, under a serial."""
        await self.say(*((serial, "publish", ([message(f"m{serial}", queue)],)) for serial, queue in places))

    async def hello(self, serial: int) -> tuple[int, set[int]]:
        """Ask up to where everything is stored, and what is not."""
        await self.say((serial, "hello", ({"protocol": PROTOCOL, "name": "me"},)))
        answer = msgspec.msgpack.decode(decode_answer(self.answers[-1][4:]).value)
        return answer["stored"], set(answer["refused"])


async def test_a_publication_that_is_stored_when_it_is_said_again_is_remembered_as_stored(engine: Engine, broker: FileBroker) -> None:
    first = Raw(engine)
    await first.hello(1)
    await first.publish((4, "late"), (5, "late"), (6, "q"))
    second = Raw(engine)
    assert await second.hello(7) == (6, {4, 5})
    await broker.declare(Topology(queues=(bind("late"),)))
    await second.publish((4, "late"))
    assert await Raw(engine).hello(8) == (6, {5}), "5 did not arrive"
    await second.publish((5, "late"))
    assert await Raw(engine).hello(9) == (6, set())


async def test_many_refusals_before_what_is_stored_are_all_remembered(engine: Engine, broker: FileBroker) -> None:
    client = Raw(engine)
    await client.hello(1)
    await client.publish(*((100 + n, "nowhere") for n in range(300)), (400, "q"))
    assert await Raw(engine).hello(401) == (400, set(range(100, 400)))


async def test_refusals_that_no_client_waits_for_any_more_are_forgotten(
    engine: Engine, broker: FileBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = Raw(engine)
    await client.hello(1)
    await client.publish((2, "nowhere"))
    monkeypatch.setattr(server, "_REFUSED_FOR", -1.0)
    await client.publish((3, "q"))
    assert await Raw(engine).hello(4) == (3, set())


async def test_a_damaged_pending_message_is_merged_with_by_nobody(engine: Engine, broker: FileBroker) -> None:
    await broker.publish([message("a", key="k", merges=True), message("work", "r")])
    engine.ledger.turn.write()
    engine.ledger.turn.db.execute("update ready set envelope = cast(replace(envelope, 'a', 'z') as blob) where message_id = 'a'")
    engine.ledger.turn.commit()
    async with broker.consume(["r"], prefetch=1) as consumer:
        (held,) = await consumer.receive(1, 60.0)
        assert await consumer.settle([Ack(held.tag, then=(message("b", key="k", merges=True),))]) == []
    (answer,) = await broker.publish([message("c", key="k", merges=True)])
    assert (answer.outcome, answer.id) == ("pending", "b")
    async with broker.consume(["q"], prefetch=5) as consumer:
        assert [d.envelope.id for d in await consumer.receive(5, 60.0)] == ["b"]


async def test_a_disk_that_fails_while_old_records_are_deleted_ends_the_engine(
    engine: Engine, broker: FileBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> bool:
        raise apsw.IOError("disk I/O error")

    monkeypatch.setattr(engine.verbs.records, "prune", fail)
    engine._prune()
    assert isinstance(await asyncio.wait_for(engine.stopped, 60), apsw.IOError)
    engine.stopped = asyncio.get_running_loop().create_future()


async def test_old_records_are_deleted_in_bounded_turns(engine: Engine, broker: FileBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chappe.engines.file.records._DELETED_AT_ONCE", 10)
    engine.ledger.turn.write()
    engine.ledger.turn.db.executemany("insert into idempotency values (?, 'm', '', 1.0)", [(f"k{n}",) for n in range(95)])
    engine.ledger.turn.commit()
    before = engine.turns
    engine._prune()
    await auntil(lambda: engine.ledger.turn.db.execute("select count(*) from idempotency").fetchone() == (0,), "the records to go")
    assert engine.turns - before >= 10


async def test_an_engine_that_was_frozen_itself_fences_nobody(engine: Engine, broker: FileBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    await broker.publish([message("a")])
    async with broker.consume(["q"], prefetch=1) as consumer:
        (held,) = await consumer.receive(1, 60.0)
        monkeypatch.setattr(server, "FENCE", 0.0)  # everybody was silent for too long
        engine._fence_at -= 30.0  # and it should have looked 30 s ago
        engine._fence()
        monkeypatch.setattr(server, "FENCE", 1e9)
        await asyncio.sleep(0)
        assert await consumer.settle([Ack(held.tag)]) == []


async def test_a_hello_of_a_connection_that_is_gone_takes_nothing(engine: Engine, broker: FileBroker) -> None:
    await broker.publish([message("a")])
    async with broker.consume(["q"], prefetch=1) as consumer:
        (held,) = await consumer.receive(1, 60.0)
        tag = held.tag
    gone = engine.attach(lambda _: None)
    hello = {"protocol": PROTOCOL, "name": "gone", "held": [("q", tag)]}
    engine.submit(gone, decode_request(frame((1, "hello", (hello,)))[4:]))
    engine.detach(gone)
    await auntil(lambda: not engine._inbox, "the turn")
    assert await broker.depth("q") == Depth(ready=1)


async def test_calls_while_a_connection_says_hello_wait_for_it_and_open_no_other(engine: Engine) -> None:
    client = FileBroker(engine.ledger.turn.path, engine=engine)
    first = asyncio.ensure_future(client.declare(Topology(queues=(bind("q"),))))
    await asyncio.sleep(0)
    others = [asyncio.ensure_future(client.publish([message(f"m{n}")])) for n in range(3)]
    await asyncio.gather(first, *others)
    assert len(engine.connections) == 1
    assert await client.depth("q") == Depth(ready=3)
    await client.close()


def test_the_ballast_of_a_killed_engine_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "chappe.db"
    assert Reserve(path).lay()
    heir = Reserve(path)
    assert heir.lay()
    os.unlink(f"{path}.reserve")  # noqa: PTH108
    assert heir.give_up(lambda: None, lambda _: None), "also when somebody removed it"


async def test_a_request_that_fails_in_a_strange_way_is_rejected_and_nothing_is_stored(
    engine: Engine, broker: FileBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def strange() -> None:
        raise RuntimeError("strange")

    with monkeypatch.context() as patch:
        patch.setattr(engine.ledger.dispatch, "promote", strange)
        with pytest.raises(Rejected, match="strange"):
            await broker.publish([message("a")])
        refused = broker.serial
    await broker.publish([message("b")])
    assert engine.ledger.turn.stored_of(broker.name) == (broker.serial, [refused])
    assert await broker.depth("q") == Depth(ready=1)


def full_at(engine: Engine, monkeypatch: pytest.MonkeyPatch, verb: str) -> None:
    """Have one verb meet a full disk that has no reserve any more."""

    def full(*_: Any) -> None:
        raise apsw.FullError("database or disk is full")

    engine.room.reserve.remove()
    monkeypatch.setattr(engine.verbs, verb, full)


async def test_a_receive_behind_a_request_that_met_a_full_disk_is_answered(
    engine: Engine, broker: FileBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = FileBroker(engine.ledger.turn.path, engine=engine)
    await other.depth("q")
    with monkeypatch.context() as patch:
        full_at(engine, patch, "settle")
        settling = broker.call("settle", [("ack", 1)])
        receiving = broker.call("receive", ["q"], 1, 20.0, deadline=25.0)  # in the same write, and so in the same turn
        with pytest.raises(StorageFull):
            await settling
    await other.publish([message("a")])
    assert len(await asyncio.wait_for(receiving, 60)) == 1
    await other.close()


async def test_a_receive_that_is_cancelled_in_a_turn_that_fails_is_answered(
    engine: Engine, broker: FileBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with broker.consume(["q"], prefetch=5) as consumer:
        receiving = asyncio.ensure_future(consumer.receive(1, 20.0))
        await auntil(lambda: engine.ledger.dispatch.receivers, "the receive to wait")
        with monkeypatch.context() as patch:
            full_at(engine, patch, "settle")
            broker.hurry(broker.serial)
            with pytest.raises(StorageFull):
                await broker.call("settle", [("ack", 1)])
        assert await asyncio.wait_for(receiving, 60) == []


async def test_who_comes_behind_a_request_that_met_a_full_disk_is_told_so_too(
    engine: Engine, broker: FileBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = FileBroker(engine.ledger.turn.path, engine=engine)
    await other.depth("q")
    with monkeypatch.context() as patch:
        full_at(engine, patch, "publish")
        first, second = await asyncio.wait_for(
            asyncio.gather(broker.publish([message("a")]), other.publish([message("b")]), return_exceptions=True), 3.0
        )
    assert isinstance(first, StorageFull)
    assert isinstance(second, StorageFull)
    await other.close()


async def test_a_hello_with_a_tag_that_sqlite_cannot_hold_is_refused_and_all_others_served(engine: Engine, broker: FileBroker) -> None:
    answers: list[bytes] = []
    stranger = engine.attach(answers.append)
    hello = {"protocol": PROTOCOL, "name": "stranger", "held": [("q", 2**64 - 1)]}
    engine.submit(stranger, decode_request(frame((1, "hello", (hello,)))[4:]))
    await broker.publish([message("a")])
    assert b"bad request" in b"".join(answers)


@pytest.mark.parametrize("verb", ["hello", "receive"])
async def test_a_request_at_which_every_turn_fails_is_refused_so_that_others_are_served(
    engine: Engine, broker: FileBroker, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    def strange(*_: Any) -> None:
        raise RuntimeError("strange")

    answers: list[bytes] = []
    stranger = engine.attach(answers.append)
    monkeypatch.setitem(engine.special, verb, strange)
    engine.submit(stranger, decode_request(frame((1, verb, ()))[4:]))
    await auntil(lambda: answers, "the refusal")
    assert b"strange" in b"".join(answers)
    await broker.publish([message("a")])


async def test_a_purge_that_finds_room_at_the_second_try_is_answered_with_what_it_did(
    engine: Engine, broker: FileBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    await broker.publish([message("a")])
    full_once(engine, monkeypatch, times=1)
    assert await broker.purge("q") == 1


async def test_a_purge_that_ends_in_a_turn_that_is_undone_is_refused_and_nothing_else(
    engine: Engine, broker: FileBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    purge = Endings.purge
    monkeypatch.setattr(endings, "_PURGED_AT_ONCE", 1)

    def last_step_meets_a_full_disk(self: Endings, *asked: Any) -> Any:
        answer = purge(self, *asked)
        if answer[1] is None:
            full_once(engine, monkeypatch)
        return answer

    monkeypatch.setattr(Endings, "purge", last_step_meets_a_full_disk)
    await broker.publish([message("a"), message("b")])
    with pytest.raises(StorageFull):
        await broker.purge("q")


async def test_a_receive_that_was_served_in_a_turn_that_is_undone_is_served_in_the_next(
    engine: Engine, broker: FileBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(9):
        await broker.publish([Publication(Envelope(f"m{n}", "t", b"x" * (1 << 20)), "q")])
    commit = engine.ledger.turn.commit
    failures = iter([apsw.FullError("database or disk is full")])

    def full() -> None:
        if engine.ledger.dispatch.served and (failure := next(failures, None)):
            raise failure
        commit()

    monkeypatch.setattr(engine.ledger.turn, "commit", full)
    async with broker.consume(["q"], prefetch=20) as consumer:
        assert len(await asyncio.wait_for(consumer.receive(10, 60), 60)) > 1


async def test_a_deletion_that_is_refused_half_way_leaves_no_message_of_a_key_behind(
    engine: Engine, broker: FileBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    purge = Endings.purge
    monkeypatch.setattr(endings, "_PURGED_AT_ONCE", 1)

    def refused_at_the_second(self: Endings, queue: str, delete: bool, place: Any) -> Any:
        if place is not None:
            raise BrokerError("a message began to run")
        return purge(self, queue, delete, place)

    await broker.publish([message(f"k{n}", key="k") for n in range(3)])
    async with broker.consume(["q"], prefetch=5) as consumer:
        (first,) = await consumer.receive(5, 1.0)
        await consumer.settle([Retry(first.tag, 3600.0)])  # it keeps the turn of its key, and is the first that the deletion removes
        monkeypatch.setattr(Endings, "purge", refused_at_the_second)
        with pytest.raises(BrokerError, match="began to run"):
            await broker.purge("q", delete=True)
        assert [d.envelope.id for d in await consumer.receive(5, 1.0)] == ["k1"]


async def test_nothing_is_merged_into_a_mask_that_may_have_been_begun(tmp_path: Path) -> None:
    path = tmp_path / "chappe.db"
    first = Engine(path, grace=0.0)
    worker = FileBroker(path, engine=first)
    await worker.declare(Topology(queues=(bind("q"),)))
    await worker.publish([message("old", key="k", merges=True)])
    async with worker.consume(["q"], prefetch=1) as consumer:
        await consumer.receive(1, 60.0)  # it is begun, and its effect remembered under its id
        first.ledger.turn.claims.clear()  # the engine dies without a word to anybody
        first.close()
        engine = Engine(path, grace=0.0)
        other = FileBroker(path, engine=engine)
        async with other.consume(["q"], prefetch=1) as takes:
            assert len(await takes.receive(1, 60.0)) == 1  # and is given back by somebody who did not begin it
        (new,) = await other.publish([message("new", key="k", merges=True)])
        assert new.outcome == "stored", "a message of its own, with an id of its own"
        async with other.consume(["q"], prefetch=2) as takes:
            (again,) = await takes.receive(2, 60.0)
            assert again.envelope.id == "old"
            await takes.settle([Ack(again.tag)])
            assert [d.envelope.id for d in await takes.receive(2, 60.0)] == ["new"]
        await other.close()
        engine.close()
        worker.deadline = 0.1  # nobody answers it
    await worker.close()


async def test_an_engine_that_stood_still_itself_waits_again_for_those_who_held_something(tmp_path: Path) -> None:
    path = tmp_path / "chappe.db"
    first = Engine(path, grace=0.0)
    worker = FileBroker(path, engine=first)
    await worker.declare(Topology(queues=(bind("q"),)))
    await worker.publish([message("held")])
    async with worker.consume(["q"], prefetch=1) as consumer:
        await consumer.receive(1, 60.0)
        first.close()
        engine = Engine(path, grace=0.2)
        time.sleep(0.5)  # noqa: ASYNC251 - as in a commit that takes long: who has come back is not heard yet
        for _ in range(3):
            await asyncio.sleep(0)
        assert engine.ledger.dispatch.held_back
        await auntil(lambda: not engine.ledger.dispatch.held_back, "the messages to be given to others")
        engine.close()
        worker.deadline = 0.1  # nobody answers it
    await worker.close()
