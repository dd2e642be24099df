"""The worker's loop: every delivery ends in one settlement, whatever its handler does, and no slot is lost."""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import sys
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Self

import pytest

from chappe import App, Command, Context, Reject, Retry, RetryLater, Settings, Snooze
from chappe.bus.context import NO_PORTS
from chappe.engines.contract.broker import Ack, Delivery, Depth, Refusal, Settlement
from chappe.engines.contract.inspection import MessageStatus
from chappe.engines.file.server import Engine
from chappe.errors import BrokerUnavailable, NotFound, Rejected, Unconfirmed, UnknownMessage
from chappe.messages.envelope import Envelope, Publication
from chappe.worker import settling, verdict
from chappe.worker import worker as worker_module
from chappe.worker.plans import Plan, Plans
from chappe.worker.running_table import RunningTable
from chappe.worker.worker import Worker
from tests.waiting import auntil

trace: contextvars.ContextVar[str] = contextvars.ContextVar("trace", default="clean")


class Do(Command, queue="work", retry=Retry(2, delay=0.0, jitter=0.0)):
    what: str


class Together(Command, queue="together"):
    what: str


class Shop:
    """An application with one handler that does what it is told, and a worker for it."""

    def __init__(self, path: Path, concurrency: int = 2, deploy_window: float = 0.0) -> None:
        self.app = App("shop")
        self.engine = Engine(path / "chappe.db", grace=0.0)
        self.app.configure(Settings(broker=f"sqlite:///{path / 'chappe.db'}"), engine=self.engine)
        self.ran: list[str] = []
        self.seen: list[str] = []
        self.gate = asyncio.Event()
        self.app.handles(Do)(self.do)
        self.concurrency = concurrency
        self.deploy_window = deploy_window
        self.path = path

    async def do(self, command: Do, context: Context) -> Any:
        self.ran.append(command.what)
        self.seen.append(trace.get())
        match command.what:
            case "cancelled":
                await asyncio.ensure_future(self._cancelled())
            case "leak":
                trace.set("leaked")
            case "wait":
                await self.gate.wait()
            case "reject":
                raise Reject("no good")
            case "later" if context.attempt == 1:
                raise RetryLater(after=0.0)
            case "snooze" if context.note != "slept":
                raise Snooze(0.0, note="slept")
            case "busy":
                time.sleep(0.05)
            case "unencodable":
                return object()
            case "exit":
                sys.exit(2)
            case "odd name":
                raise OSError("caf\udce9")
            case "reject an error":
                raise Reject(ValueError("no good"))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
            case "later by a text":
                raise RetryLater(after="30")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
            case "never":
                raise RetryLater(after=float("inf"))
            case "odd note" if context.attempt == 1:
                raise Snooze(0.0, note=7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
            case "suicide":
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
                await asyncio.sleep(0)
            case "sends":
                context.send(Do(what="fine"))
            case "large":
                return "x" * 65 * 1024 * 1024
            case _:
                return None

    async def _cancelled(self) -> None:
        raise asyncio.CancelledError

    async def __aenter__(self) -> Self:
        self.connection = await self.app.connection()
        self.scope = self.connection.broker.consume(["work"], prefetch=10)
        self.consumer = await self.scope.__aenter__()
        table = RunningTable(self.path, self.concurrency)
        self.worker = Worker(
            self.app.bus,
            self.consumer,
            merging=self.app.merger,
            ports=await self.app.ports(),
            concurrency=self.concurrency,
            table=table,
            deploy_window=self.deploy_window,
        )
        self.running = asyncio.create_task(self.worker.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self.gate.set()
        await self.worker.stop(5.0)
        await self.running
        await self.scope.__aexit__(None, None, None)
        await self.app.aclose()
        self.engine.close()

    async def send(self, *what: str) -> None:
        await self.app.asend([Do(what=w) for w in what])

    async def settled(self, but: Depth | None = None) -> None:
        left = but or Depth()

        async def is_settled() -> bool:
            depth = await self.connection.broker.depth("work")
            return (depth.ready, depth.running, depth.delayed) == (left.ready, left.running, left.delayed)

        await auntil(is_settled, "everything to be settled")

    async def dead(self) -> list[tuple[str, int]]:
        return [(letter.reason, letter.attempts) for letter in await self.connection.store.letters()]


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Shop]:
    async with Shop(tmp_path) as made:
        yield made


async def test_a_cancelled_future_inside_a_handler_is_a_failed_attempt_and_costs_no_slot(shop: Shop) -> None:
    await shop.send(*["cancelled"] * 3, "fine")
    await shop.settled()
    assert shop.ran.count("cancelled") == 6
    assert [reason for reason, _ in await shop.dead()] == ["attempts spent"] * 3
    await shop.send("fine")
    await shop.settled()
    assert shop.ran.count("fine") == 2


@pytest.mark.parametrize(
    ("what", "runs", "dead"),
    [("fine", 1, []), ("later", 2, []), ("snooze", 2, []), ("reject", 1, [("no good", 1)]), ("unencodable", 1, [])],
)
async def test_each_outcome_ends_in_its_settlement(shop: Shop, what: str, runs: int, dead: list[tuple[str, int]]) -> None:
    await shop.send(what)
    await shop.settled()
    assert shop.ran == [what] * runs
    assert await shop.dead() == dead


async def test_context_variables_of_one_message_do_not_reach_the_next(shop: Shop) -> None:
    await shop.send(*["leak"] * 6)
    await shop.settled()
    assert shop.seen == ["clean"] * 6


async def test_a_handler_that_waits_does_not_stop_the_other_slots(shop: Shop) -> None:
    await shop.send("wait", "fine", "fine", "fine")
    await auntil(lambda: shop.ran.count("fine") == 3)

    async def only_one_runs() -> bool:
        return (await shop.connection.broker.depth("work")).running == 1

    await auntil(only_one_runs, "the others to be settled")
    shop.gate.set()
    await shop.settled()


@pytest.mark.parametrize(
    ("envelope", "reason"),
    [
        (Envelope("1", "nobody.knows", b"{}"), "unknown message"),
        (Envelope("1", "do", b"{"), "undecodable"),
        (Envelope("1", "do", b'{"what": 5}'), "undecodable"),
        (Envelope("1", "do", b'{"what": "fine", "more": 1}'), "undecodable"),
        (Envelope("1", "do", b"\xff\xfe"), "undecodable"),
        (Envelope("1", "do", b"[" * 100_000), "undecodable"),
        (Envelope("1", "do", b"{}", content_type="application/x-pickle"), "undecodable"),
    ],
)
async def test_what_cannot_be_understood_is_parked_and_never_run(shop: Shop, envelope: Envelope, reason: str) -> None:
    await shop.connection.broker.publish([Publication(envelope, "work")])
    await shop.settled()
    assert [reason for reason, _ in await shop.dead()] == [reason]
    assert shop.ran == []


@pytest.mark.parametrize(
    "envelope",
    [
        Envelope("1", "nobody.knows", b"{}"),
        Envelope("1", "do", b'{"what": "fine", "more": 1}'),
        Envelope("1", "do", b'{"what": 5}'),
    ],
)
async def test_what_another_release_may_know_is_returned_for_it_uncounted(tmp_path: Path, envelope: Envelope) -> None:
    async with Shop(tmp_path, deploy_window=600.0) as shop:
        await shop.connection.broker.publish([Publication(envelope, "work")])

        async def delayed() -> list[MessageStatus]:
            return (await shop.connection.store.look("work", "delayed")).messages

        assert [message.attempt for message in await auntil(delayed)] == [1]
        assert (await shop.dead(), shop.ran) == ([], [])


@pytest.mark.parametrize("error", [UnknownMessage("of another release"), OSError("the provider's database is away")])
async def test_the_note_of_a_handler_outlasts_a_delivery_that_was_not_handled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(worker_module, "NOT_READY_PAUSE", 0.01)
    monkeypatch.setattr(verdict, "_LONGEST_RETURN", 0.01)
    errors = [None, error, error, None]

    class Forgetful(Plans):
        """Plans that are asked for anew with each delivery."""

        def __setitem__(self, key: Any, value: Any) -> None: ...

        async def find(self, delivery: Delivery) -> Plan:
            if errors and (failed := errors.pop(0)) is not None:
                raise failed
            return await super().find(delivery)

    async with Shop(tmp_path, concurrency=1, deploy_window=600.0) as shop:
        monkeypatch.setattr(shop.worker, "_plans", Forgetful(shop.app.bus, 600.0))
        await shop.send("snooze")
        await shop.settled()
        assert (shop.ran, errors) == (["snooze", "snooze"], [])


@pytest.mark.parametrize("error", [BrokerUnavailable("away"), Unconfirmed("no answer")])
async def test_a_settlement_that_finds_no_engine_is_said_again_until_it_is_heard(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    settle, tries = shop.consumer.settle, 0

    async def away_once(settlements: Sequence[Settlement]) -> list[Refusal]:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise error
        return await settle(settlements)

    monkeypatch.setattr(shop.consumer, "settle", away_once)
    await shop.send("fine")
    await shop.settled()
    assert (shop.ran, tries) == (["fine"], 2)


async def test_stopping_gives_back_what_did_not_start_without_counting_an_attempt(tmp_path: Path) -> None:
    async with Shop(tmp_path, concurrency=1) as shop:
        await shop.send("wait", "fine", "fine")
        await auntil(lambda: shop.ran == ["wait"])
        assert await shop.worker.stop(0.0) == 1
        given_back = (await shop.connection.store.look("work", "ready")).messages
        depth = await shop.connection.broker.depth("work")
        assert (depth.ready, depth.running) == (3, 0)
        assert [message.attempt for message in given_back] == [1, 1, 1]


async def test_a_worker_of_so_many_messages_takes_no_more(shop: Shop) -> None:
    shop.worker.most = 3
    await shop.send(*["fine"] * 5)
    await asyncio.wait_for(shop.worker.finished.wait(), 60)
    assert len(shop.ran) == 3
    assert (await shop.connection.broker.depth("work")).ready == 2


async def test_a_settlement_that_the_broker_cannot_store_becomes_a_failed_attempt(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settling, "REFUSED_PAUSE", 0.01)
    monkeypatch.setattr(settling, "NOT_READY_PAUSE", 0.01)
    settle = shop.consumer.settle

    async def refuse_acks(settlements: Sequence[Settlement]) -> list[Refusal]:
        if any(isinstance(settlement, Ack) for settlement in settlements):
            raise Rejected("this cannot be stored")
        return await settle(settlements)

    monkeypatch.setattr(shop.consumer, "settle", refuse_acks)
    await shop.send("fine")

    async def failed_once() -> bool:
        queues = (await shop.connection.store.overview()).queues
        return (next(q for q in queues if q.name == "work").retried or 0) >= 1

    await auntil(failed_once, "the attempt to be given up instead of held for ever")
    monkeypatch.setattr(shop.consumer, "settle", settle)
    await shop.settled()


async def test_what_a_handler_sends_and_the_broker_cannot_store_ends_as_its_policy_says(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settling, "REFUSED_PAUSE", 0.0)
    monkeypatch.setattr(settling, "NOT_READY_PAUSE", 0.0)
    settle = shop.consumer.settle

    async def refuse_much(settlements: Sequence[Settlement]) -> list[Refusal]:
        if any(isinstance(settlement, Ack) and settlement.then for settlement in settlements):
            raise Rejected("too much at once")
        return await settle(settlements)

    monkeypatch.setattr(shop.consumer, "settle", refuse_much)
    await shop.send("fine", "sends", "fine")
    await shop.settled()
    assert shop.ran.count("sends") == 2, "its policy allows two attempts"
    assert [reason for reason, _ in await shop.dead()] == ["attempts spent"]
    (letter,) = await shop.connection.store.letters()
    assert "too much at once" in (await shop.connection.store.letter(letter.number)).history[-1][2]


async def test_quiet_gives_back_what_did_not_start_so_that_others_can_run_it(tmp_path: Path) -> None:
    async with Shop(tmp_path, concurrency=1) as shop:
        await shop.send("wait", "fine", "fine")
        await auntil(lambda: shop.ran == ["wait"])
        shop.worker.quiet(True)

        async def given_back() -> bool:
            depth = await shop.connection.broker.depth("work")
            return (depth.ready, depth.running) == (2, 1)

        await auntil(given_back, "the buffer to be given back")
        shop.gate.set()
        shop.worker.quiet(False)
        await shop.settled()
        assert shop.ran == ["wait", "fine", "fine"]


async def test_only_the_slots_that_are_allowed_are_used_and_others_can_have_what_waited(tmp_path: Path) -> None:
    async with Shop(tmp_path, concurrency=4) as shop:
        await shop.send(*["wait"] * 8)
        await auntil(lambda: len(shop.ran) == 4)
        for allowed in (2, 0):
            shop.worker.allow(allowed)

            async def is_given_back() -> bool:
                depth = await shop.connection.broker.depth("work")
                return (depth.ready, depth.running) == (4, 4)

            await auntil(is_given_back, "what did not start to be given back")
        shop.gate.set()
        await auntil(lambda: shop.worker.done == 4, "what runs to be finished")
        shop.gate.clear()
        shop.worker.allow(1)
        await auntil(lambda: len(shop.ran) == 5, "one more")
        assert shop.worker.busy == 1
        shop.worker.allow(100)
        await auntil(lambda: len(shop.ran) == 8, "the others")
        shop.gate.set()
        await shop.settled()
        (times,) = shop.worker.clocked.take()
        assert (times.queue, times.ran.count, times.waited.count) == ("work", 8, 8)


async def test_a_handler_is_cancelled_with_its_message_and_neither_its_slot_nor_its_neighbours_are(tmp_path: Path) -> None:
    async with Shop(tmp_path, concurrency=2) as shop:
        cancelled, waits = await shop.app.asend([Do(what="wait"), Do(what="wait")])
        await auntil(lambda: len(shop.ran) == 2)
        assert await shop.app.acancel(cancelled.id) == "running"
        await auntil(lambda: shop.worker.busy == 1, "the handler to be cancelled")
        await shop.send("fine", "fine")
        await auntil(lambda: shop.ran.count("fine") == 2, "its slot to go on")
        await shop.settled(Depth(running=1))
        shop.gate.set()
        await shop.settled()
        assert await shop.dead() == []
        with pytest.raises(NotFound):
            await shop.app.acancel(waits.id)


async def test_w10_a_worker_whose_handlers_are_slow_leaves_to_others_what_it_has_no_slot_for(tmp_path: Path) -> None:
    async with Shop(tmp_path, concurrency=1) as shop:
        await shop.send("wait", "fine")
        await auntil(lambda: shop.ran == ["wait"])
        assert await shop.connection.broker.depth("work") == Depth(ready=1, running=1)
        shop.gate.set()
        await shop.settled()
        assert shop.ran == ["wait", "fine"]


async def test_what_waits_in_a_worker_is_cancelled_before_it_begins(tmp_path: Path) -> None:
    async with Shop(tmp_path, concurrency=1) as shop:
        shop.worker._settler.rate = 100.0  # so that it holds some ahead
        _, waits = await shop.app.asend([Do(what="wait"), Do(what="fine")])

        async def is_held() -> bool:
            return (await shop.connection.broker.depth("work")).running == 2

        await auntil(is_held, "both to be held")
        await shop.app.acancel(waits.id)

        async def is_gone() -> bool:
            return (await shop.connection.broker.depth("work")).running == 1

        await auntil(is_gone, "it to be gone")
        shop.gate.set()
        await shop.settled()
        assert shop.ran == ["wait"]


async def test_a_worker_that_is_told_to_be_quiet_and_to_go_on_in_one_breath_is_not_deaf(shop: Shop) -> None:
    for sent in range(1, 4):
        shop.worker.quiet(True)
        for _ in range(sent):
            await asyncio.sleep(0)
        for quiet in (False, True, False):
            shop.worker.quiet(quiet)
        await shop.send("fine")
        await shop.settled()
        assert shop.ran == ["fine"] * sent


@pytest.mark.parametrize(
    "what", ["exit", "odd name", "reject an error", "later by a text", "never", "odd note", "suicide", "cancelled", "unencodable"]
)
async def test_whatever_a_handler_raises_costs_neither_a_slot_nor_its_neighbours(shop: Shop, what: str) -> None:
    await shop.send("fine", what, what, what, "fine", "fine")
    await shop.settled()
    assert shop.ran.count("fine") == 3
    dead = await shop.dead()
    assert len(dead) == (0 if what in ("odd note", "unencodable") else 3), dead
    assert not any(slot.done() for slot in shop.worker._slots.values())


async def test_a_result_that_cannot_be_stored_costs_its_neighbours_nothing(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settling, "REFUSED_PAUSE", 0.01)
    monkeypatch.setattr(settling, "NOT_READY_PAUSE", 0.01)
    await shop.send("fine", "large", "fine")
    await shop.settled()
    assert shop.ran.count("fine") == 2
    assert await shop.dead() == []
    assert shop.ran.count("large") == 1


async def test_what_was_lost_before_it_began_is_not_run(tmp_path: Path) -> None:
    async with Shop(tmp_path, concurrency=1) as shop:
        shop.worker._settler.rate = 100.0  # so that it holds some ahead
        await shop.send("wait", "fine")
        await auntil(lambda: shop.ran == ["wait"])
        await auntil(lambda: len(shop.worker._buffer) == 1)
        shop.consumer.lose({shop.worker._buffer[0].tag})
        shop.gate.set()
        await auntil(lambda: not shop.worker._buffer)
        assert shop.ran == ["wait"]


async def test_the_end_of_the_loop_ends_a_slot_whose_handler_waits(tmp_path: Path) -> None:
    async with Shop(tmp_path) as shop:
        await shop.send("wait")
        await auntil(lambda: shop.ran == ["wait"])
        tasks = [shop.running, *shop.worker._slots.values()]
        for task in tasks:
            task.cancel()
        done, _ = await asyncio.wait(tasks, timeout=60.0)
        assert len(done) == len(tasks)
        shop.running = asyncio.create_task(asyncio.sleep(0))


async def test_handlers_that_never_suspend_leave_the_loop_its_turn(shop: Shop) -> None:
    ran: list[int] = []

    async def watch() -> None:
        while True:
            await asyncio.sleep(0)
            ran.append(len(shop.ran))

    watching = asyncio.create_task(watch())
    await shop.send(*["busy"] * 20)
    await shop.settled()
    watching.cancel()
    assert len(shop.ran) == 20
    assert max(now - before for before, now in itertools.pairwise(ran)) <= 5, "twenty handlers of 50 ms each must not run as one"


class Sync(Command, queue="threads", timeout=0.05, retry=1, key="{n}"):
    n: int


async def test_a_thread_that_ignores_its_timeout_keeps_its_slot_and_its_key_until_it_ends(tmp_path: Path) -> None:
    app, running, most = App("sync"), list[int](), list[int]()
    engine = Engine(tmp_path / "chappe.db", grace=0.0)
    app.configure(Settings(broker=f"sqlite:///{tmp_path / 'chappe.db'}"), engine=engine)

    @app.handles(Sync)
    def hang(command: Sync) -> None:
        running.append(command.n)
        most.append(running.count(command.n))
        deadline = time.monotonic() + 0.3
        while time.monotonic() < deadline:
            try:
                time.sleep(0.3)
            except BaseException:  # what a library does that swallows everything
                pass
        running.remove(command.n)

    app.bus.set_threads(4)
    connection = await app.connection()
    async with connection.broker.consume(["threads"], prefetch=10) as consumer:
        table = RunningTable(tmp_path, 4)
        worker = Worker(app.bus, consumer, merging=app.merger, ports=await app.ports(), concurrency=4, table=table)
        task = asyncio.create_task(worker.run())
        await app.asend([Sync(n=1) for _ in range(3)])

        async def over() -> bool:
            return (await connection.broker.depth("threads")).dead == 3

        await auntil(over, "all three to time out")
        assert max(most) == 1, "two of one key ran at once"
        await worker.stop(1.0)
        await task
    await app.aclose()
    engine.close()


async def test_a_worker_that_ends_gives_back_what_waits_for_others_and_counts_no_attempt(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    calls: list[list[str]] = []

    async def together(commands: list[Together], contexts: list[Context]) -> None:
        calls.append([f"{command.what}{context.attempt}" for command, context in zip(commands, contexts, strict=True)])

    shop.app.handles(Together, batch=3, within=600.0)(together)
    async with shop:
        connection = shop.connection
        async with connection.broker.consume(["together"], prefetch=10) as consumer:

            def working() -> Worker:
                table = RunningTable(tmp_path, 1 + shop.app.registry.waiting_places)
                return Worker(shop.app.bus, consumer, merging=shop.app.merger, ports=NO_PORTS, concurrency=1, table=table)

            worker = working()
            running = asyncio.create_task(worker.run())
            await shop.app.asend([Together(what=w) for w in "ab"])
            await auntil(lambda: worker.held == 2, "both to wait for a third")
            assert worker.busy == 0
            await worker.stop(600.0)
            await running
            assert (await connection.broker.depth("together")).delayed == 2
            assert not calls


async def test_a_worker_that_ends_finishes_a_call_for_several(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    began, ended = asyncio.Event(), list[str]()

    async def together(commands: list[Together]) -> None:
        began.set()
        await shop.gate.wait()
        ended.extend(command.what for command in commands)

    shop.app.handles(Together, batch=3, within=600.0)(together)
    async with shop, shop.connection.broker.consume(["together"], prefetch=10) as consumer:
        table = RunningTable(tmp_path, 1 + shop.app.registry.waiting_places)
        worker = Worker(shop.app.bus, consumer, merging=shop.app.merger, ports=NO_PORTS, concurrency=1, table=table)
        running = asyncio.create_task(worker.run())
        await shop.app.asend([Together(what=w) for w in "abc"])
        await began.wait()
        assert worker.busy == 1
        stopping = asyncio.create_task(worker.stop(600.0))
        shop.gate.set()
        assert await stopping == 0
        await running
        assert ended == ["a", "b", "c"]
        depth = await shop.connection.broker.depth("together")
        assert (depth.ready, depth.running, depth.delayed, worker.done) == (0, 0, 0, 3)


async def test_a_command_cancelled_in_a_call_for_several_ends_alone(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    began, ended = asyncio.Event(), list[str]()

    async def together(commands: list[Together]) -> None:
        began.set()
        await shop.gate.wait()
        ended.extend(command.what for command in commands)

    shop.app.handles(Together, batch=2, within=600.0)(together)
    async with shop, shop.connection.broker.consume(["together"], prefetch=10) as consumer:
        table = RunningTable(tmp_path, 1 + shop.app.registry.waiting_places)
        worker = Worker(shop.app.bus, consumer, merging=shop.app.merger, ports=NO_PORTS, concurrency=1, table=table)
        running = asyncio.create_task(worker.run())
        receipts = await shop.app.asend([Together(what=w) for w in "ab"])
        await began.wait()
        assert await shop.app.acancel(receipts[0].id) == "running"
        await auntil(lambda: worker.held == 0, "the cancelled one to have left")
        assert not ended
        shop.gate.set()
        await auntil(lambda: worker.done == 1 and worker.busy == 0, "the other to be done")
        assert ended == ["a", "b"]
        await worker.stop(5.0)
        await running
