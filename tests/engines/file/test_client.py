"""A client heals: calls wait for the engine's successor, and what was in flight is stored once."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from chappe.engines.contract.broker import Ack
from chappe.engines.file import client
from chappe.engines.file.broker import FileBroker
from chappe.engines.file.client import _Call
from chappe.engines.file.ledger import Ledger
from chappe.engines.file.link import Link
from chappe.engines.file.owner import Ownership
from chappe.engines.file.verbs import DECODERS, HARMLESS
from chappe.engines.file.wire import frame
from chappe.errors import BrokerError, BrokerUnavailable, CorruptStorage, Unconfirmed, UnsafeStorage
from chappe.messages.envelope import Envelope, Options, Publication
from chappe.messages.topology import Topology, bind
from tests.waiting import auntil, until


class EngineProcess:
    def __init__(self, folder: Path) -> None:
        self.path = folder / "chappe.db"
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "chappe", "--broker", f"sqlite:///{self.path}", "engine"]
        self.process = subprocess.Popen(command, stderr=subprocess.DEVNULL)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[EngineProcess]:
    made = EngineProcess(tmp_path)
    until(lambda: (tmp_path / "chappe.db.sock").exists(), "the engine")
    yield made
    made.kill()


def message(number: int, options: Options | None = None) -> Publication:
    return Publication(Envelope(f"m{number}", "t", b"{}"), "q", options=options)


async def test_where_nothing_runs_a_sender_owns_the_file_for_a_moment_only(tmp_path: Path) -> None:
    broker = FileBroker(tmp_path / "chappe.db")
    await broker.declare(Topology(queues=(bind("q"),)))
    await broker.publish([message(n) for n in range(3)])
    Ownership(tmp_path / "chappe.db").close()
    assert (await broker.depth("q")).ready == 3
    await broker.close()


async def test_a_sender_changes_nothing_of_a_log_that_a_killed_engine_left_and_the_disk_damaged(engine: EngineProcess) -> None:
    broker = FileBroker(engine.path)
    await broker.declare(Topology(queues=(bind("q"),)))
    for n in range(20):
        await broker.publish([message(n)])
    engine.kill()
    log = Path(f"{engine.path}-wal")
    data = bytearray(log.read_bytes())
    data[32 + 8 * 4120 + 124] ^= 1  # a byte of the ninth frame
    log.write_bytes(data)
    before = engine.path.read_bytes(), log.read_bytes()
    with pytest.raises(CorruptStorage, match="has lost commits that had been durable"):
        await broker.publish([message(20)])
    assert (engine.path.read_bytes(), log.read_bytes()) == before
    await broker.close()


async def test_a_sender_makes_no_new_file_where_the_folder_is_gone(tmp_path: Path) -> None:
    broker = FileBroker(tmp_path / "unmounted" / "chappe.db")
    with pytest.raises(UnsafeStorage, match="does not exist; mount its disk"):
        await broker.publish([message(1)])
    assert not (tmp_path / "unmounted").exists()
    await broker.close()


async def test_where_nothing_runs_waiting_fails_within_its_deadline(tmp_path: Path) -> None:
    broker = FileBroker(tmp_path / "chappe.db", deadline=0.3)
    with pytest.raises(BrokerUnavailable, match="chappe run"):
        await broker.call("result", "m1", 0.1, deadline=0.5)
    await broker.close()


async def test_senders_at_once_without_an_engine_all_store_everything(tmp_path: Path) -> None:
    brokers = [FileBroker(tmp_path / "chappe.db") for _ in range(5)]
    await asyncio.gather(*(broker.declare(Topology(queues=(bind("q"),))) for broker in brokers))
    await asyncio.gather(*(broker.publish([message(n)]) for n, broker in enumerate(brokers)))
    assert (await brokers[0].depth("q")).ready == 5
    for broker in brokers:
        await broker.close()


async def test_killing_the_engine_under_a_stream_of_publications_loses_and_doubles_nothing(engine: EngineProcess) -> None:
    broker = FileBroker(engine.path, may_own_file=False, deadline=60.0)
    await broker.declare(Topology(queues=(bind("q"),)))
    confirmed: list[str] = []
    stop = asyncio.Event()

    async def publish(lane: int) -> None:
        number = 0
        while not stop.is_set():
            number += 1
            (receipt,) = await broker.publish([Publication(Envelope(f"{lane}-{number}", "t", b"{}"), "q")])
            confirmed.append(receipt.id)

    lanes = [asyncio.create_task(publish(lane)) for lane in range(8)]
    for _ in range(3):
        before = len(confirmed)
        await auntil(lambda before=before: len(confirmed) > before + 100, "publications to be confirmed")
        await asyncio.to_thread(engine.kill)
        engine.start()
    stop.set()
    await asyncio.gather(*lanes)
    stored: list[str] = []
    async with broker.consume(["q"], prefetch=500) as consumer:
        while (await broker.depth("q")).ready:
            deliveries = await consumer.receive(500, 60.0)
            stored += [d.envelope.id for d in deliveries]
            await consumer.settle([Ack(d.tag) for d in deliveries])
    assert sorted(stored) == sorted(confirmed)
    await broker.close()


async def test_a_worker_keeps_what_it_holds_over_the_death_of_the_engine(engine: EngineProcess) -> None:
    broker = FileBroker(engine.path, may_own_file=False, deadline=60.0)
    await broker.declare(Topology(queues=(bind("q"),)))
    await broker.publish([message(n) for n in range(4)])
    async with broker.consume(["q"], prefetch=2) as consumer:
        held = await consumer.receive(2, 60.0)
        engine.kill()
        engine.start()
        other = FileBroker(engine.path, may_own_file=False, deadline=60.0)
        async with other.consume(["q"], prefetch=4) as rival:
            taken = await rival.receive(4, 60.0)
            assert [d.envelope.id for d in taken] == ["m2", "m3"], "what is held is not lent twice"
            assert await consumer.settle([Ack(d.tag) for d in held]) == []
        await other.close()
    assert (await broker.depth("q")).ready == 2
    await broker.close()


async def test_a_merging_publication_in_flight_is_unconfirmed_rather_than_guessed(engine: EngineProcess) -> None:
    broker = FileBroker(engine.path, may_own_file=False, deadline=60.0)
    await broker.declare(Topology(queues=(bind("q"),)))
    serial = broker.serial
    call = asyncio.ensure_future(broker.publish([message(1, Options(key="k", merges=True))]))
    await auntil(call.done)
    sent = broker._calls
    assert not sent
    assert broker.serial > serial
    # The successor says that the request was stored, but not what was answered: only a plain one can be confirmed.
    future = asyncio.get_running_loop().create_future()
    body = frame((99, "publish", ([message(1, Options(key="k", merges=True))],)))
    broker._confirm(_Call(99, "publish", body, lambda value: value, 0.0, future))
    with pytest.raises(Unconfirmed, match="idempotency key"):
        await future
    await broker.close()


async def test_a_frozen_engine_is_an_error_within_the_deadline_never_a_hang(engine: EngineProcess) -> None:
    broker = FileBroker(engine.path, may_own_file=False, deadline=60.0)
    await broker.declare(Topology(queues=(bind("q"),)))
    broker.deadline = 0.5
    engine.process.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(Unconfirmed):
            await broker.publish([message(1)])
        with pytest.raises(BrokerUnavailable):
            await broker.depth("q")
    finally:
        engine.process.send_signal(signal.SIGCONT)
    await broker.close()


async def test_what_a_frozen_engine_lends_to_a_receive_that_was_given_up_is_given_back(engine: EngineProcess) -> None:
    broker = FileBroker(engine.path, may_own_file=False, deadline=60.0)
    await broker.declare(Topology(queues=(bind("q"),)))
    await broker.publish([message(1)])
    async with broker.consume(["q"], prefetch=1) as consumer:
        broker.deadline = 0.3
        engine.process.send_signal(signal.SIGSTOP)
        try:
            assert await consumer.receive(1, 0.1) == []
        finally:
            engine.process.send_signal(signal.SIGCONT)
        broker.deadline = 60.0
        (delivery,) = await auntil(lambda: consumer.receive(1, 1.0), "the message")
        assert (delivery.envelope.id, delivery.attempt) == ("m1", 1), "it counts as no attempt"
        assert broker._abandoned == set()
    await broker.close()


@pytest.mark.parametrize(
    ("verb", "arguments", "kind"),
    [
        ("depth", ("q",), BrokerUnavailable),
        ("declare", (Topology(queues=(bind("q"),)),), BrokerUnavailable),
        ("letters", (None, 0, 1), BrokerUnavailable),
        ("budgets", (1,), BrokerUnavailable),
        ("purge", ("q", False, None), Unconfirmed),
        ("retry_letters", ([1],), Unconfirmed),
        ("discard_letters", ([1],), Unconfirmed),
        ("mark", ("m1", "h", (), None), Unconfirmed),
        ("take", ("b", 1.0, 1), Unconfirmed),
    ],
)
async def test_only_what_certainly_changed_nothing_is_said_to_have_changed_nothing(
    engine: EngineProcess, verb: str, arguments: tuple[Any, ...], kind: type[BrokerError]
) -> None:
    broker = FileBroker(engine.path, may_own_file=False, deadline=60.0)
    await broker.declare(Topology(queues=(bind("q"),)))
    broker.deadline = 0.3
    engine.process.send_signal(signal.SIGSTOP)
    with pytest.raises(kind):
        await broker.call(verb, *arguments)
    closed = broker.call(verb, *arguments)
    await broker.close()
    with pytest.raises(kind, match="closed before the answer"):
        await closed


def test_every_verb_that_may_be_said_again_is_a_verb() -> None:
    assert HARMLESS - {"await_archived", "cancel", "result"} <= DECODERS.keys(), "those three wait, and are no verbs of the decoders"


async def test_what_was_never_said_is_unavailable_whatever_it_was(tmp_path: Path) -> None:
    broker = FileBroker(tmp_path / "chappe.db", may_own_file=False, deadline=0.2)
    with pytest.raises(BrokerUnavailable):
        await broker.purge("q")
    await broker.close()


async def test_an_engine_of_another_protocol_refuses_every_call_and_its_connection_is_not_used(
    engine: EngineProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = FileBroker(engine.path, may_own_file=False)
    with monkeypatch.context() as patch:
        patch.setattr(client, "PROTOCOL", 99)
        for _ in range(2):
            with pytest.raises(BrokerError, match="the client 99; restart both"):
                await broker.declare(Topology(queues=(bind("q"),)))
    await broker.declare(Topology(queues=(bind("q"),)))
    assert [shown["name"] for shown in (await broker.call("overview"))["clients"]] == [broker.name]
    await broker.close()


async def test_a_connection_that_dies_in_its_first_moment_is_made_again(tmp_path: Path) -> None:
    path, accepted = tmp_path / "chappe.db", 0

    async def die_at_once(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal accepted
        accepted += 1
        writer.transport.abort()

    dying = await asyncio.start_unix_server(die_at_once, str(tmp_path / "chappe.db.sock"))
    broker = FileBroker(path, may_own_file=False, deadline=60.0)
    call = asyncio.ensure_future(broker.declare(Topology(queues=(bind("q"),))))
    await auntil(lambda: accepted >= 5, "it to be tried again and again")
    dying.close()
    await dying.wait_closed()
    engine = EngineProcess(tmp_path)
    try:
        await asyncio.wait_for(call, 60)
        assert (await broker.depth("q")).ready == 0
    finally:
        await broker.close()
        engine.kill()


async def test_what_was_stored_before_the_engine_died_is_not_stored_again_by_a_sender_that_owns_the_file(tmp_path: Path) -> None:
    engine = EngineProcess(tmp_path)
    await auntil((tmp_path / "chappe.db.sock").exists)
    broker = FileBroker(engine.path, may_own_file=True, deadline=60.0)
    await broker.declare(Topology(queues=(bind("q"),)))
    confirmed: list[str] = []
    stop = asyncio.Event()

    async def publish(lane: int) -> None:
        number = 0
        while not stop.is_set():
            number += 1
            (receipt,) = await broker.publish([Publication(Envelope(f"{lane}-{number}", "t", b"{}"), "q")])
            confirmed.append(receipt.id)

    lanes = [asyncio.create_task(publish(lane)) for lane in range(8)]
    for _ in range(3):
        before = len(confirmed)
        await auntil(lambda before=before: len(confirmed) > before + 50, "publications to be confirmed")
        await asyncio.to_thread(engine.kill)
        before = len(confirmed)
        await auntil(lambda before=before: len(confirmed) > before + 8, "the sender to own the file for a moment")
        engine.start()
    stop.set()
    await asyncio.gather(*lanes)
    stored: list[str] = []
    async with broker.consume(["q"], prefetch=500) as consumer:
        while (await broker.depth("q")).ready:
            deliveries = await consumer.receive(500, 60.0)
            stored += [d.envelope.id for d in deliveries]
            await consumer.settle([Ack(d.tag) for d in deliveries])
    assert sorted(stored) == sorted(confirmed)
    await broker.close()
    engine.kill()


async def test_a_link_lost_before_its_maker_hears_of_it_is_made_again(engine: EngineProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    loop, tries = asyncio.get_running_loop(), 0
    connect = loop.create_unix_connection

    async def lose_the_first(factory: Any, path: str) -> Any:
        nonlocal tries
        tries += 1
        transport, link = await connect(factory, path)
        if tries == 1:
            transport.abort()
            await auntil(lambda: broker._write is None, "the link to be lost")
        return transport, link

    monkeypatch.setattr(loop, "create_unix_connection", lose_the_first)
    broker = FileBroker(engine.path, may_own_file=False, deadline=60.0)
    await broker.declare(Topology(queues=(bind("q"),)))
    assert tries == 2
    await broker.close()


async def test_a_momentary_owner_confirms_what_its_dead_engine_had_stored(tmp_path: Path) -> None:
    broker = FileBroker(tmp_path / "chappe.db")
    await broker.declare(Topology(queues=(bind("q"),)))
    ledger = Ledger(tmp_path / "chappe.db", time.time)
    ledger.turn.remember_serial(broker.name, 1000, [1000])
    ledger.turn.commit()
    ledger.close()
    futures = [asyncio.get_running_loop().create_future() for _ in range(2)]
    for serial, future in zip((999, 1000), futures, strict=True):  # 999 was stored, 1000 refused in the same turn
        body = frame((serial, "publish", ([message(serial)],)))
        call = _Call(serial, "publish", body, lambda value: value, 1e12, future)
        call.sent = True
        broker._calls[serial] = call
    broker._own_for_a_moment()
    assert all(future.done() for future in futures)
    assert (await broker.depth("q")).ready == 1, "only the refused one is stored now"
    await broker.close()


def forked(act: Callable[[], None]) -> int:
    """Do something in a forked child, and return its process id."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            act()
            code = 0
        finally:
            os._exit(code)
    return child


async def test_a_forked_child_has_no_connection_and_says_nothing_over_its_parents(engine: EngineProcess) -> None:
    broker = FileBroker(engine.path)
    await broker.declare(Topology(queues=(bind("q"),)))
    unsent = broker.call("publish", [message(1)])

    def speak() -> None:
        with pytest.raises(BrokerUnavailable, match="make another one in the child"):
            broker.call("publish", [message(2)])
        broker._flush()
        broker.received(broker._link, b"")
        asyncio.run(broker.close())

    assert os.waitstatus_to_exitcode(os.waitpid(forked(speak), 0)[1]) == 0
    await unsent
    assert (await broker.depth("q")).ready == 1
    await broker.close()


async def test_what_a_client_held_is_ready_again_when_it_dies_though_a_child_of_it_lives(engine: EngineProcess) -> None:
    broker, other = FileBroker(engine.path), FileBroker(engine.path)
    await broker.declare(Topology(queues=(bind("q"),)))
    await broker.publish([message(1)])
    read, write = os.pipe()

    def live() -> None:
        os.close(write)
        os.read(read, 1)

    async with broker.consume(["q"], prefetch=1) as consumer:
        assert len(await consumer.receive(1, 10.0)) == 1
        child = forked(live)
        link = broker._link
        assert isinstance(link, Link)
        assert link._transport is not None
        broker.unlinked = lambda _: None  # type: ignore[method-assign]
        link._transport.abort()  # as its death does

        async def is_back() -> bool:
            return (await other.depth("q")).ready == 1

        try:
            await auntil(is_back, "the message to be ready again")
        finally:
            os.close(write)
            os.close(read)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        broker._closed = "it is dead"
    await other.close()
