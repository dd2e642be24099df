"""The engine's turns: what comes together is stored together, and nobody's mistake is another's."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import apsw
import msgspec
import pytest

from chappe.engines.contract.broker import Ack, Depth, Retry
from chappe.engines.contract.fleet import EngineStatus
from chappe.engines.file import deaths, endings, server
from chappe.engines.file.broker import FileBroker
from chappe.engines.file.dispatch import Dispatch, Reading
from chappe.engines.file.owner import is_of_this_user, socket_path
from chappe.engines.file.running_tables import HEADER, SLOT, folder_of
from chappe.engines.file.server import Engine
from chappe.engines.file.serving import serve
from chappe.engines.file.store import store_of
from chappe.engines.file.wire import LARGEST_FRAME, decode_request, frame
from chappe.errors import BrokerError, Rejected, StorageFull
from chappe.messages.envelope import Envelope, Options, Publication
from chappe.messages.topology import Topology, bind
from chappe.worker.running_table import RunningTable
from tests.waiting import auntil


def message(number: int = 0, queue: str = "q") -> Publication:
    return Publication(Envelope(f"m{number}", "t", b"{}"), queue)


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[Engine]:
    made = Engine(tmp_path / "chappe.db", grace=0.0)
    yield made
    made.close()


@pytest.fixture
async def broker(engine: Engine) -> AsyncIterator[FileBroker]:
    made = FileBroker(engine.ledger.turn.path, engine=engine)
    await made.declare(Topology(queues=(bind("q"),)))
    yield made
    await made.close()


async def test_the_engine_tells_of_itself_without_a_look_at_its_queues_and_its_file_where_no_engine_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "chappe.db"
    engine = Engine(path, grace=0.0)
    broker = FileBroker(path, engine=engine)
    await broker.declare(Topology(queues=(bind("q"),)))
    monkeypatch.setattr(Dispatch, "oldest", None)
    status = await store_of(broker).engine()
    assert (status.path, status.full, status.pid, status.started_at) == (str(path), False, os.getpid(), engine.started_at)
    assert status.sqlite == apsw.sqlite_lib_version()
    await broker.close()
    engine.close()
    broker = FileBroker(path)
    assert await store_of(broker).engine() == EngineStatus(str(path), sqlite=apsw.sqlite_lib_version())
    await broker.close()


async def test_temporary_queues_of_a_client_that_does_not_come_back_after_a_restart_are_removed_and_others_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "FENCE", 0.4)
    before = Engine(tmp_path / "chappe.db", grace=0.0)
    gone, here = (FileBroker(before.ledger.turn.path, engine=before) for _ in range(2))
    await gone.call("subscribe", bind("theirs"))
    await here.call("subscribe", bind("ours"))
    await here.publish([message(1, "theirs"), message(2, "ours")])
    assert [queue["temporary"] for queue in (await here.call("overview"))["queues"]] == [True, True]
    for broker in (gone, here):
        await broker.close()
    before.close()
    engine = Engine(tmp_path / "chappe.db", grace=0.0)
    again = FileBroker(engine.ledger.turn.path, engine=engine)
    again.name = here.name  # as a client has it that lives on
    try:
        assert await again.depth("theirs") == Depth(ready=1)
        await auntil(lambda: list(engine.ledger.turn.routes.queues) == ["ours"], "the removal")
        assert await again.depth("ours") == Depth(ready=1)
        assert engine.ledger.turn.db.execute("select count(*) from temporary_queue").fetchone() == (1,)
    finally:
        await again.close()
        engine.close()


async def test_requests_of_one_moment_share_a_commit(engine: Engine, broker: FileBroker) -> None:
    others = [FileBroker(engine.ledger.turn.path, engine=engine) for _ in range(8)]
    await asyncio.gather(*(other.depth("q") for other in others))
    before = engine.turns
    await asyncio.gather(*(other.publish([message(n)]) for n, other in enumerate(others * 8)))
    assert engine.turns - before <= 3
    assert (await broker.depth("q")).ready == 64
    for other in others:
        await other.close()


@pytest.mark.parametrize(
    ("verb", "arguments"),
    [
        ("nonsense", ()),
        ("_publish_with", ()),
        ("publish", ("text",)),
        ("publish", ([["id"]],)),
        ("depth", (1, 2, 3)),
        ("settle", ([["shrug", 1]],)),
    ],
)
async def test_a_wrong_request_is_refused_and_the_next_one_served(broker: FileBroker, verb: str, arguments: tuple[object, ...]) -> None:
    with pytest.raises(BrokerError, match="bad request"):
        await broker.call(verb, *arguments)
    assert (await broker.depth("q")).ready == 0


async def test_one_refused_request_does_not_touch_the_others_of_its_turn(broker: FileBroker) -> None:
    outcomes = await asyncio.gather(
        broker.publish([message(1)]), broker.publish([message(2, "missing")]), broker.publish([message(3)]), return_exceptions=True
    )
    assert isinstance(outcomes[1], Rejected)
    assert (await broker.depth("q")).ready == 2


@contextlib.contextmanager
def sqlite_rows(engine: Engine) -> Iterator[Callable[[str], object]]:
    """Change rows behind the engine's back, as a sick disk does."""
    engine.ledger.turn.write()
    yield engine.ledger.turn.db.execute
    engine.ledger.turn.commit()


async def published(broker: FileBroker, publication: Publication) -> None:
    """Publish as soon as there is room."""
    while True:
        try:
            await broker.publish([publication])
        except StorageFull:
            await asyncio.sleep(0.05)
        else:
            return


async def test_a_full_disk_undoes_the_turn_refuses_it_and_recovers(
    engine: Engine, broker: FileBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    await broker.publish([message(1)])
    async with broker.consume(["q"], prefetch=5) as consumer:
        (held,) = await consumer.receive(1, 1.0)
        commit = engine.ledger.turn._save_counters

        def full() -> None:
            raise apsw.FullError("database or disk is full")

        monkeypatch.setattr(engine.ledger.turn, "_save_counters", full)
        with pytest.raises(StorageFull):
            await broker.publish([message(2)])
        with pytest.raises(StorageFull):
            await consumer.settle([Ack(held.tag)])
        monkeypatch.setattr(engine.ledger.turn, "_save_counters", commit)
        assert (await broker.depth("q")).running == 1, "what was held is still held"
        assert await consumer.settle([Ack(held.tag)]) == []
        with pytest.raises(StorageFull):  # the reserve is not back yet
            await broker.publish([message(2)])
        await asyncio.wait_for(published(broker, message(3)), 60)
        assert [d.envelope.id for d in await consumer.receive(5, 1.0)] == ["m3"]


async def test_a_connection_lost_while_the_disk_is_full_gives_back_later(
    engine: Engine, broker: FileBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    await broker.publish([message(1)])
    other = FileBroker(engine.ledger.turn.path, engine=engine)
    async with other.consume(["q"], prefetch=5) as consumer:
        assert len(await consumer.receive(1, 1.0)) == 1
        promote = engine.ledger.dispatch.promote

        def full() -> None:
            raise apsw.FullError("database or disk is full")

        monkeypatch.setattr(engine.ledger.dispatch, "promote", full)
        await other.close()
    monkeypatch.setattr(engine.ledger.dispatch, "promote", promote)

    async def back() -> bool:
        return (await broker.depth("q")).ready == 1

    await auntil(back, "the message to be ready again")


async def test_a_client_that_is_silent_while_it_holds_messages_is_given_up(
    engine: Engine, broker: FileBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    await broker.publish([message(1)])
    silent = FileBroker(engine.ledger.turn.path, engine=engine)
    async with silent.consume(["q"], prefetch=1) as consumer:
        (lost,) = await consumer.receive(1, 1.0)
        monkeypatch.setattr(silent, "unlinked", lambda _: None)  # it does not even hear that it is cut off
        monkeypatch.setattr(server, "FENCE", -1.0)
        engine._fence()
        monkeypatch.setattr(server, "FENCE", 1e9)

        async def back() -> bool:
            return (await broker.depth("q")).ready == 1

        await auntil(back, "the message to be given to others")
        async with broker.consume(["q"], prefetch=1) as other:
            (again,) = await other.receive(1, 1.0)
            assert again.tag == lost.tag
            assert (await broker.depth("q")).running == 1
        silent.deadline = 0.1  # nobody answers it


async def test_nothing_is_left_of_a_wait_for_a_result_when_the_client_that_waited_is_gone(engine: Engine, broker: FileBroker) -> None:
    await broker.publish([msgspec.structs.replace(message(1), options=Options(tracked=True))])
    other = FileBroker(engine.ledger.turn.path, engine=engine)
    waits = [other.call("result", message(1).envelope.id, 1e9, deadline=1e9) for _ in range(2)]
    await auntil(lambda: sum(map(len, engine.waits._waiters.values())) == 2, "the waits to have begun")
    await other.close()
    await asyncio.gather(*waits, return_exceptions=True)
    assert dict(engine.waits._waiters) == {}


async def test_an_io_error_ends_the_engine_without_an_answer(engine: Engine, broker: FileBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise apsw.IOError("disk I/O error")

    monkeypatch.setattr(engine.ledger.turn, "commit", broken)
    call = asyncio.ensure_future(broker.publish([message(1)]))
    error = await asyncio.wait_for(asyncio.shield(engine.stopped), 60)
    assert isinstance(error, apsw.IOError)
    assert not call.done(), "what was not stored must not be acknowledged"
    call.cancel()


async def test_the_socket_is_private_and_a_client_that_speaks_nonsense_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "chappe.db"
    ready = asyncio.Event()
    served = asyncio.create_task(serve(path, ready.set))
    await asyncio.wait_for(ready.wait(), 60)
    address = socket_path(path)
    assert stat.S_IMODE(os.stat(address).st_mode) == 0o600
    for nonsense in (b"GET / HTTP/1.1\r\n\r\n", frame("no request"), struct.pack(">I", 2**31)):
        reader, writer = await asyncio.open_unix_connection(str(address))
        writer.write(nonsense)
        try:
            assert await asyncio.wait_for(reader.read(), 60) == b""
        except ConnectionResetError:
            pass
        writer.close()
    broker = FileBroker(path)
    await broker.declare(Topology(queues=(bind("q"),)))
    assert (await broker.depth("q")).ready == 0
    await broker.close()
    served.cancel()
    with pytest.raises(asyncio.CancelledError):
        await served
    assert not address.exists()


def test_another_user_is_told_apart_by_the_kernel() -> None:
    left, right = socket.socketpair(socket.AF_UNIX)
    with left, right:
        assert is_of_this_user(left)


async def test_messages_that_ran_when_worker_and_engine_died_together_are_blamed_once(tmp_path: Path) -> None:
    path = tmp_path / "chappe.db"
    engine = Engine(path, grace=0.0)
    broker = FileBroker(path, engine=engine)
    await broker.declare(Topology(queues=(bind("q"),)))
    await broker.publish([message(1), message(2)])
    async with broker.consume(["q"], prefetch=5) as consumer:
        started, waiting = await consumer.receive(2, 1.0)
    engine.ledger.turn.was_held = True
    await broker.close()
    engine.close()
    table = tmp_path / "chappe.db.running" / "4194304-aa.running"
    table.parent.mkdir()
    table.write_bytes(HEADER.pack(0.0, 0, 0, 0, 0.0, 0.0) + SLOT.pack(0, 0, 0) + SLOT.pack(started.tag, 1, 0))
    old = tmp_path / "chappe.db.running" / "4194304-bb.running"
    old.write_bytes(HEADER.pack(0.0, 0, 0, 0, 0.0, 0.0) + SLOT.pack(waiting.tag, 1, 0))
    os.utime(old, (1, 1))  # of an earlier boot: a power failure is no worker's fault
    engine = Engine(path, grace=0.0)
    broker = FileBroker(path, engine=engine)
    async with broker.consume(["q"], prefetch=5) as consumer:
        (alone,) = await consumer.receive(2, 1.0)
        assert (alone.envelope.id, alone.attempt) == ("m1", 1)
        await consumer.settle([Ack(alone.tag)])
        assert [(d.envelope.id, d.attempt) for d in await consumer.receive(2, 1.0)] == [("m2", 1)]
    assert not table.exists()
    assert not old.exists()
    await broker.close()
    engine.close()


@pytest.mark.parametrize("holds", [False, True])
async def test_the_table_of_a_worker_stays_while_it_lives_and_goes_when_it_is_dead(
    engine: Engine, broker: FileBroker, monkeypatch: pytest.MonkeyPatch, holds: bool
) -> None:
    monkeypatch.setattr(deaths, "_LOCK_ENDS", 0.01)
    await broker.publish([message(1)])
    table = RunningTable(folder_of(engine.ledger.turn.path), 1)

    async def end() -> None:
        """Connect with the table, and end."""
        worker = FileBroker(engine.ledger.turn.path, engine=engine)
        worker.info = {"table": table.path.name}
        async with worker.consume(["q"], prefetch=1) as consumer:
            if holds:
                assert len(await consumer.receive(1, 1.0)) == 1
            await worker.close()
        turns = engine.turns
        await broker.depth("q")
        await auntil(lambda: engine.turns > turns, "its connection to be given up")

    await end()
    await asyncio.sleep(0.05)  # longer than the engine looks again
    assert table.path.exists(), "it only was given up, and comes back"
    table._let_go()  # as its death does
    await end()
    await auntil(lambda: not table.path.exists(), "the table to go")


@pytest.mark.parametrize(
    "name",
    [
        5,
        None,
        ["1-a.running"],
        "1-a\0.running",
        "elsewhere",
        "{folder}/elsewhere/precious.running",
        "{folder}/elsewhere/1-a.running",
        "../elsewhere/1-a.running",
        "{folder}/chappe.db.running/1-a.running",
        "chappe.db.running/../elsewhere/1-a.running",
        "1-a.running\n",
        "1-b.running",
        "1-c.running",
        "1-d.running",
    ],
)
async def test_a_client_that_names_what_is_not_its_table_is_given_up_like_others_and_no_file_is_touched(
    tmp_path: Path, engine: Engine, broker: FileBroker, name: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tables, elsewhere = folder_of(engine.ledger.turn.path), tmp_path / "elsewhere"
    for folder in (tables, elsewhere):
        folder.mkdir()
    (tables / "1-a.running").touch()
    precious = [elsewhere / name for name in ("precious.running", "1-a.running")]
    for file in precious:
        file.write_bytes(struct.pack("<dQQ", 1.0, 1, 2))  # the tags that the message below may have
    (tables / "1-b.running").symlink_to(precious[0])
    (tables / "1-c.running").mkdir()
    os.mkfifo(tables / "1-d.running")
    await broker.publish([message(1)])
    worker = FileBroker(engine.ledger.turn.path, engine=engine)
    worker.info = {"table": name.format(folder=tmp_path) if isinstance(name, str) else name}
    async with worker.consume(["q"], prefetch=1) as consumer:
        (delivery,) = await consumer.receive(1, 1.0)
        assert delivery.tag in (1, 2)
        await worker.close()
    assert await broker.depth("q") == Depth(ready=1)
    (given,) = (await store_of(broker).look("q", "ready")).messages
    assert given.attempt == 1, "nothing outside the folder of the tables says what was running"
    assert [file.stat().st_size for file in precious] == [24, 24]
    assert len(list(tables.iterdir())) == 4


async def test_text_that_is_no_utf8_fails_its_own_request_only(engine: Engine, broker: FileBroker) -> None:
    answers: list[bytes] = []
    stranger = engine.attach(answers.append)
    engine.submit(stranger, decode_request(b"\x93\x01\xa5depth\x91\xa2\x80\x80"))
    await broker.publish([message(1)])
    assert b"bad request" in b"".join(answers)
    assert (await broker.depth("q")).ready == 1


async def test_an_answer_that_something_is_pending_costs_no_commit(engine: Engine, broker: FileBroker) -> None:
    merging = Publication(Envelope("a", "t", b"{}"), "q", options=Options(key="k", merges=True))
    (stored,) = await broker.publish([merging])
    pages = engine.ledger.turn.db.execute("pragma data_version").fetchone()
    written = Path(f"{engine.ledger.turn.path}-wal").read_bytes()
    (answer,) = await broker.publish([merging])
    assert (answer.outcome, answer.version) == ("pending", stored.version)
    assert Path(f"{engine.ledger.turn.path}-wal").read_bytes() == written
    assert engine.ledger.turn.db.execute("pragma data_version").fetchone() == pages


async def test_a_long_line_of_one_key_is_passed_over_in_several_turns(
    engine: Engine, broker: FileBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chappe.engines.file.dispatch._LOOKED_AT_ONCE", 50)
    busy = [Publication(Envelope(f"b{n}", "t", b"{}"), "q", options=Options(key="busy")) for n in range(400)]
    await broker.publish([*busy, message(1)])
    async with broker.consume(["q"], prefetch=5) as consumer:
        (first,) = await consumer.receive(1, 1.0)
        assert first.envelope.id == "b0"
        before = engine.turns
        (other,) = await consumer.receive(1, 60.0)
        assert other.envelope.id == "m1"
        assert engine.turns - before > 5
        await consumer.settle([Ack(first.tag)])
        assert [d.envelope.id for d in await consumer.receive(2, 1.0)] == ["b1"], "the line goes on in its order"


async def test_a_long_queue_is_purged_in_several_turns_while_others_are_served(
    engine: Engine, broker: FileBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endings, "_PURGED_AT_ONCE", 50)
    await broker.declare(Topology(queues=(bind("other"),)))
    await broker.publish([message(n) for n in range(500)] + [msgspec.structs.replace(message(n), delay=99.0) for n in range(120)])
    before = engine.turns
    purging = asyncio.ensure_future(broker.purge("q"))
    await asyncio.sleep(0)
    await broker.publish([message(1, "other"), message(1000)])
    assert not purging.done()
    assert await purging == 620
    assert engine.turns - before > 10
    assert await broker.depth("q") == Depth(ready=1), "what came after it began stays"
    assert (await broker.depth("other")).ready == 1


async def test_a_message_that_the_disk_changed_is_a_dead_letter_and_never_handled(engine: Engine, broker: FileBroker) -> None:
    await broker.publish([message(1), message(2)])
    with sqlite_rows(engine) as rows:
        rows("update ready set envelope = cast(replace(envelope, 'm1', 'm7') as blob) where message_id = 'm1'")
    async with broker.consume(["q"], prefetch=5) as consumer:
        assert [d.envelope.id for d in await consumer.receive(5, 1.0)] == ["m2"]
    (letter,) = await store_of(broker).letters("q")
    assert letter.reason == "damaged"
    assert letter.envelope.id == "m1"
    assert b"m7" in letter.envelope.body


async def test_a_lend_is_bounded_by_bytes_so_that_its_answer_always_fits(broker: FileBroker) -> None:
    body = b"x" * 3_000_000
    for n in range(8):
        await broker.publish([Publication(Envelope(f"m{n}", "t", body), "q")])
    async with broker.consume(["q"], prefetch=50) as consumer:
        taken: list[str] = []
        while deliveries := await consumer.receive(50, 0.2):
            assert len(deliveries) <= 3
            taken += [d.envelope.id for d in deliveries]
        assert taken == [f"m{n}" for n in range(8)]


async def test_a_large_message_behind_others_is_lent_alone_so_that_its_answer_fits(broker: FileBroker) -> None:
    for name, size in (("small", 7 << 20), ("large", 60 << 20), ("last", 1)):
        await broker.publish([Publication(Envelope(name, "t", b"x" * size), "q")])
    async with broker.consume(["q"], prefetch=10) as consumer:
        assert [[d.envelope.id for d in await consumer.receive(10, 1.0)] for _ in range(3)] == [["small"], ["large"], ["last"]]


async def test_messages_with_long_notes_are_lent_in_answers_that_fit(broker: FileBroker) -> None:
    await broker.publish([message(n) for n in range(12)])
    async with broker.consume(["q"], prefetch=50) as consumer:
        for delivery in await consumer.receive(12, 1.0):
            await consumer.settle([Retry(delivery.tag, 0.0, note="x" * (6 << 20))])
        assert sum([len(await consumer.receive(12, 1.0)) for _ in range(12)]) == 12


async def test_a_message_that_no_answer_has_room_for_is_a_dead_letter_and_those_behind_it_are_served(
    broker: FileBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chappe.engines.file.dispatch.LARGEST_FRAME", 10_000)
    await broker.publish([Publication(Envelope("m0", "t", b"x" * 11_000), "q"), message(1)])
    async with broker.consume(["q"], prefetch=5) as consumer:
        assert [d.envelope.id for d in await consumer.receive(5, 1.0)] == ["m1"]
    assert await broker.depth("q") == Depth(ready=1, dead=1)


async def test_a_receive_reads_hardly_more_than_it_lends(engine: Engine, broker: FileBroker) -> None:
    for n in range(20):
        await broker.publish([Publication(Envelope(f"m{n}", "t", b"x" * (1 << 20)), "q")])
    (queue,) = engine.ledger.turn.routes.queues.values()
    reading = Reading(engine.ledger.turn.db, queue, 3 << 20, 1000)
    rows, whole = reading.behind(0, 0, 20)
    assert len(rows) == 3
    assert not whole
    assert reading.is_over


async def test_a_send_that_is_too_large_is_refused_at_once_and_certainly_not_stored(broker: FileBroker) -> None:
    with pytest.raises(Rejected, match="more than"):
        await broker.publish([Publication(Envelope("m", "t", b"x", headers={"x": "y" * (LARGEST_FRAME + 1)}), "q")])
    assert (await broker.depth("q")).ready == 0


@pytest.mark.parametrize(("verb", "arguments"), [("letter", (2**63,)), ("retry_letters", ([2**64 - 1],)), ("archived", (2**63, 1, "#"))])
async def test_a_number_that_sqlite_cannot_hold_is_one_clients_mistake(
    broker: FileBroker, verb: str, arguments: tuple[object, ...]
) -> None:
    wrong, right = await asyncio.gather(broker.call(verb, *arguments), broker.publish([message(1)]), return_exceptions=True)
    assert isinstance(wrong, BrokerError)
    assert "bad request" in str(wrong)
    assert right[0].outcome == "stored"  # type: ignore[index]


@pytest.mark.parametrize("change", [{"priority": 2**40}, {"delay": float("inf")}, {"delay": float("nan")}])
async def test_a_publication_beyond_all_bounds_is_refused(broker: FileBroker, change: dict[str, float]) -> None:
    with pytest.raises(BrokerError, match="bad request"):
        await broker.publish([Publication(Envelope("m", "t", b"{}"), "q", **change)])  # type: ignore[arg-type]


async def test_a_mask_that_was_lent_and_did_not_start_is_pending_again(broker: FileBroker) -> None:
    def mask(identity: str) -> Publication:
        return Publication(Envelope(identity, "t", b"{}"), "q", options=Options(key="k", merges=True))

    await broker.publish([mask("a")])
    async with broker.consume(["q"], prefetch=1) as consumer:
        assert len(await consumer.receive(1, 1.0)) == 1
    (receipt,) = await broker.publish([mask("b")])
    assert (receipt.outcome, receipt.id) == ("pending", "a")
    assert (await broker.depth("q")).ready == 1
