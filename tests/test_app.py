"""The application as its users see it: one declaration, every door, the same result."""

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import httpx2
import msgspec
import pytest

from chappe import (
    App,
    BrokerUnavailable,
    Command,
    CommandFailed,
    Context,
    Event,
    InvalidMessage,
    Reject,
    ResultTimeout,
    Retry,
    Settings,
    Unique,
    Unroutable,
    bind,
    every,
    replace,
)
from chappe.cli.sending import parse
from chappe.engines.file.server import Engine
from chappe.errors import DefinitionError, KeyReused, TooLate
from chappe.testing import testing
from chappe.web.gateway import gateway

from .web.shop import of_this_user


class Bid(Command, queue="bids", retry=Retry(3, delay=1.0, jitter=0.0)):
    user: str
    amount: int
    lot: Literal["clock", "vase"] = "clock"


class BidNow(Command, inline=True):
    user: str
    amount: int
    lot: Literal["clock", "vase"] = "clock"


class BidRaised(Event):
    lot: str
    amount: int


class BidLost(Event):
    lot: str


class Sync(Command, queue="sync", key="{house}"):
    house: int
    what: frozenset[str]

    def merge(self, newer: Self) -> Self:
        return replace(self, what=self.what | newer.what)


class Once(Command, queue="once", unique=Unique("{name}")):
    name: str


class Auction:
    """An application whose handlers write down what they do, and fail where they are told to."""

    def __init__(self) -> None:
        self.app = App("auction")
        self.log: list[str] = []
        self.broken: set[str] = set()
        for command in (Bid, BidNow):
            self.app.handles(command)(self.add_user)
            self.app.handles(command)(self.check_amount)
            self.app.handles(command)(self.notify)

        @self.app.handles(Sync)
        async def sync(command: Sync) -> list[str]:
            self.log.append(f"sync {command.house} {''.join(sorted(command.what))}")
            return sorted(command.what)

        @self.app.handles(Once)
        async def once(command: Once) -> None: ...

    async def add_user(self, command: Any) -> None:
        self.log.append(f"user {command.user}")

    def check_amount(self, command: Any) -> dict[str, Any]:
        self.log.append(f"check {command.amount}")
        if "check" in self.broken:
            raise OSError("the price list is away")
        if command.amount < 10:
            raise Reject("too low")
        return {"leader": command.user, "amount": command.amount}

    async def notify(self, command: Any) -> AsyncIterator[BidRaised]:
        self.log.append("notify")
        yield BidRaised(lot=command.lot, amount=command.amount)


HANDLED = ["user Ada", "check 70", "notify"]
RESULT = {"leader": "Ada", "amount": 70}


def by_python(auction: Auction, kind: type[Command], values: dict[str, Any]) -> Any:
    with testing(auction.app) as t:
        return t.ask(kind(**values))


def by_queue(auction: Auction, kind: type[Command], values: dict[str, Any]) -> Any:
    """As a foreign client that knows only the queue and the JSON."""
    from chappe.messages.envelope import Envelope, Options, Publication

    with testing(auction.app) as t:

        async def publish() -> Any:
            connection = await auction.app.connection()
            envelope = Envelope("foreign-1", kind.__spec__.name, json.dumps(values).encode(), 0.0)
            await connection.broker.publish([Publication(envelope, kind.__spec__.queue or "", options=Options(tracked=True))])

        auction.app.wait_for(publish())
        t.drain()
        if t.dead:
            raise AssertionError(t.dead[0].reason, t.dead[0].error)
        return auction.app.wait_for(auction.app.aresult("foreign-1", timeout=60))


def by_http(auction: Auction, kind: type[Command], values: dict[str, Any]) -> Any:
    async def post() -> Any:
        async with testing(auction.app) as t:
            transport = httpx2.ASGITransport(app=of_this_user(gateway(auction.app)))
            async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
                answer = await client.post(f"/commands/{kind.__spec__.name}", json=values)
                if answer.status_code == 422:
                    raise InvalidMessage(kind.__spec__.name, {e["path"]: e["detail"] for e in answer.json()["errors"]})
                if answer.status_code == 200:
                    return answer.json()["result"]
                t.drain()
                return (await client.get(answer.headers["location"], headers={"Prefer": "wait=5"})).json()["result"]

    return asyncio.run(post())


def by_cli(auction: Auction, kind: type[Command], values: dict[str, Any]) -> Any:
    """The command line's own reading of words, without its process: tests/cli has those."""
    words = tuple(f"{name}={value}" for name, value in values.items())
    with testing(auction.app) as t:
        command = parse(auction.app, kind.__spec__.name, words, Command)
        assert isinstance(command, Command)
        return t.ask(command)


DOORS: dict[str, Callable[[Auction, type[Command], dict[str, Any]], Any]] = {
    "python": by_python,
    "http": by_http,
    "cli": by_cli,
    "queue": by_queue,
}


@pytest.mark.parametrize(("door", "kind"), [(d, k) for d in DOORS for k in (Bid, BidNow) if not (d == "queue" and k is BidNow)])
def test_three_handlers_in_order_give_the_same_result_through_every_door(door: str, kind: type[Command]) -> None:
    auction = Auction()
    assert DOORS[door](auction, kind, {"user": "Ada", "amount": 70}) == RESULT
    assert auction.log == HANDLED


@pytest.mark.parametrize("kind", [Bid, BidNow])
def test_the_same_validation_error_through_every_door(kind: type[Command]) -> None:
    faults: dict[str, dict[str, str]] = {}
    for door in ("python", "http", "cli"):
        auction = Auction()
        with pytest.raises(InvalidMessage) as caught:
            DOORS[door](auction, kind, {"user": "Ada", "amount": "many", "lot": "cup", "more": "x"})
        assert auction.log == []
        faults[door] = caught.value.faults
    assert set(faults["python"]) == {"$.amount", "$.lot", "$.more"}
    assert faults["python"] == faults["http"] == faults["cli"]


def test_a_body_that_is_not_valid_is_parked_with_the_field_when_it_came_through_the_queue() -> None:
    with pytest.raises(AssertionError, match=r"undecodable.*\$\.amount"):
        by_queue(Auction(), Bid, {"user": "Ada", "amount": "many"})


def test_a_failure_in_the_second_handler_resumes_at_the_second() -> None:
    auction = Auction()
    auction.broken.add("check")
    with testing(auction.app) as t:
        t.send(Bid(user="Ada", amount=70))
        t.drain()
        assert auction.log == ["user Ada", "check 70"]
        auction.broken.clear()
        t.advance(2)
        t.drain()
        assert auction.log == ["user Ada", "check 70", "check 70", "notify"]
        assert t.sent(BidRaised) == [BidRaised(lot="clock", amount=70)]


def test_a_retried_dead_letter_resumes_where_it_failed_too() -> None:
    auction = Auction()
    auction.broken.add("check")
    with testing(auction.app) as t:
        t.send(Bid(user="Ada", amount=70))
        for _ in range(5):
            t.drain()
            t.advance(60)
        (letter,) = t.dead
        assert (letter.reason, letter.attempts) == ("attempts spent", 3)
        assert "the price list is away" in (letter.error or "")
        assert auction.log == ["user Ada", "check 70", "check 70", "check 70"]
        auction.broken.clear()

        async def retry() -> int:
            return await (await auction.app.connection()).store.retry_letters([letter.number])

        assert auction.app.wait_for(retry()) == 1
        t.drain()
        assert auction.log[4:] == ["check 70", "notify"]
        assert t.dead == []


def test_a_failed_command_yields_nothing() -> None:
    auction = Auction()
    with testing(auction.app) as t:
        with pytest.raises(CommandFailed, match="too low"):
            t.ask(Bid(user="Ada", amount=1))
        assert t.sent(BidRaised) == []


def test_a_command_handled_inline_raises_its_own_error() -> None:
    auction = Auction()
    auction.broken.add("check")
    with testing(auction.app) as t, pytest.raises(OSError, match="the price list is away"):
        t.send(BidNow(user="Ada", amount=70))


def test_what_a_command_handled_inline_yields_is_sent() -> None:
    auction = Auction()
    with testing(auction.app) as t:
        assert t.send(BidNow(user="Ada", amount=70)).outcome == "done"
        assert t.sent(BidRaised) == [BidRaised(lot="clock", amount=70)]


def test_capabilities_act_only_through_middleware() -> None:
    """Without middleware the same class is sent and handled as if it had none."""
    app, attempts = App("bare", middleware=[]), list[int]()

    class Loaded(Command, queue="loaded", key="{n}", unique=Unique("{n}"), delay=60.0, retry=Retry(5), ttl=0.000001, priority=3):
        n: int

    @app.handles(Loaded)
    async def handle(command: Loaded, context: Context) -> None:
        attempts.append(context.attempt)
        raise OSError("broken")

    with testing(app) as t:
        assert [t.send(Loaded(n=1)).outcome for _ in range(2)] == ["stored", "stored"]
        t.drain()
        assert attempts == [1, 1]
        assert [letter.reason for letter in t.dead] == ["failed", "failed"]


# --- asking


@pytest.mark.parametrize("askers", [2, 5])
def test_every_asker_of_merged_commands_gets_the_result_of_the_run_that_covered_it(askers: int) -> None:
    auction = Auction()

    async def ask() -> list[Any]:
        async with testing(auction.app) as t:
            all_sent, drain = asyncio.Event(), auction.app.connections.setting.handle

            async def handle(message_id: str, timeout: float) -> None:  # noqa: ASYNC109
                await all_sent.wait()
                assert drain is not None
                await drain(message_id, timeout)

            auction.app.connections.setting = msgspec.structs.replace(auction.app.connections.setting, handle=handle)
            asked = [asyncio.ensure_future(auction.app.aask(Sync(house=1, what=frozenset({f"w{n}"})), timeout=60)) for n in range(askers)]
            while len(t.sent(Sync)) < askers:
                await asyncio.sleep(0.005)
            all_sent.set()
            return await asyncio.gather(*asked)

    covered = sorted(f"w{n}" for n in range(askers))
    assert asyncio.run(ask()) == [covered] * askers
    assert len(auction.log) == 1


def test_a_command_that_arrives_while_its_key_runs_is_a_run_of_its_own() -> None:
    app, begun, gate, runs = App("keys"), threading.Event(), threading.Event(), list[list[str]]()

    @app.handles(Sync)
    def sync(command: Sync) -> list[str]:
        begun.set()
        assert gate.wait(60)
        runs.append(sorted(command.what))
        return sorted(command.what)

    async def ask() -> list[Any]:
        async with testing(app, concurrency=2) as t:
            first = asyncio.ensure_future(app.aask(Sync(house=1, what=frozenset("a")), timeout=60))
            while not t.sent(Sync):
                await asyncio.sleep(0.005)
            draining = asyncio.ensure_future(asyncio.to_thread(t.drain))
            await asyncio.to_thread(begun.wait, 10)
            later = [asyncio.ensure_future(app.aask(Sync(house=1, what=frozenset(w)), timeout=60)) for w in "bc"]
            while len(t.sent(Sync)) < 3:
                await asyncio.sleep(0.005)
            gate.set()
            await draining
            return await asyncio.gather(first, *later)

    assert asyncio.run(ask()) == [["a"], ["b", "c"], ["b", "c"]]
    assert runs == [["a"], ["b", "c"]]


def test_an_asker_whose_time_is_over_leaves_the_command_going_on() -> None:
    auction = Auction()
    with testing(auction.app) as t:
        with pytest.raises(ResultTimeout, match="delayed"):
            auction.app.ask(Bid(user="Ada", amount=70), delay=60)
        t.drain(to_the_end=True)
        assert auction.log == HANDLED


def test_asking_for_a_unique_command_that_is_pending_gives_the_first_ones_result_or_its_wait() -> None:
    app = App("unique")

    class Count(Command, queue="count", unique="{n}"):
        n: int

    @app.handles(Count)
    async def count(command: Count) -> int:
        return command.n

    with testing(app) as t:
        receipt = t.send(Count(n=1))
        assert t.send(Count(n=1)).id == receipt.id
        t.drain()
        assert t.send(Count(n=1)).outcome == "stored", "done means free again"


# --- sending


def test_a_sequence_is_stored_at_once_in_its_order() -> None:
    auction = Auction()
    with testing(auction.app) as t:
        receipts = auction.app.send([Bid(user=f"u{n}", amount=70) for n in range(100)])
        assert len({r.id for r in receipts}) == 100
        assert [bid.user for bid in t.sent(Bid)] == [f"u{n}" for n in range(100)]
        t.drain()
        assert [line for line in auction.log if line.startswith("user")] == [f"user u{n}" for n in range(100)]


def test_a_sequence_is_stored_wholly_or_not_at_all() -> None:
    class Nowhere(Command, exchange="nowhere", routing_key="x"):
        pass

    auction = Auction()
    auction.app.knows(Nowhere)
    with testing(auction.app) as t:
        with pytest.raises(Unroutable):
            auction.app.send([Bid(user="Ada", amount=70), Nowhere()])
        assert t.sent(Bid) == []
        assert t.depth("bids") == (0, 0)


class Mixed:
    """An application with an inline command that writes down what it did, and one that waits."""

    def __init__(self) -> None:
        self.app = App("mixed")
        self.done: list[str] = []

        @self.app.handles(BidNow)
        def now(command: BidNow) -> None:
            if command.user == "Eve":
                raise OSError("not her")
            self.done.append(command.user)

        @self.app.handles(Bid)
        async def later(command: Bid) -> None: ...


def test_the_receipts_of_a_mixed_sequence_are_in_the_order_given() -> None:
    mixed = Mixed()
    with testing(mixed.app) as t:
        receipts = mixed.app.send(
            [Bid(user="a", amount=1), BidNow(user="b", amount=1), Bid(user="c", amount=1), BidNow(user="d", amount=1)]
        )
        assert [receipt.outcome for receipt in receipts] == ["stored", "done", "stored", "done"]
        assert mixed.done == ["b", "d"]
        assert [bid.user for bid in t.sent(Bid)] == ["a", "c"]


@pytest.mark.parametrize("place", [0, 1, 2])
def test_if_an_inline_command_of_a_sequence_fails_nothing_is_stored(place: int) -> None:
    mixed = Mixed()
    messages: list[Command] = [Bid(user="a", amount=1), Bid(user="c", amount=1)]
    messages.insert(place, BidNow(user="Eve", amount=1))
    with testing(mixed.app) as t:
        with pytest.raises(OSError, match="not her"):
            mixed.app.send(messages)
        assert t.sent(Bid) == []


class Plain(Command):
    n: int = 0


class Ticked(Event):
    n: int = 0


def sender_of(app: App, colour: str) -> None:
    """Register a handler that sends and returns."""
    if colour == "async":

        @app.handles(Plain)
        async def tick(command: Plain, context: Context) -> int:
            context.send(Ticked(n=command.n))
            context.send([Ticked(n=2), Ticked(n=3)])
            return 42
    else:

        @app.handles(Plain)
        def tick_in_a_thread(command: Plain, context: Context) -> int:
            context.send(Ticked(n=command.n))
            context.send([Ticked(n=2), Ticked(n=3)])
            return 42


@pytest.mark.parametrize("colour", ["async", "sync"])
def test_a_handler_sends_and_returns_a_result(colour: str) -> None:
    app = App("plain")
    sender_of(app, colour)
    with testing(app) as t:
        assert t.ask(Plain(n=1)) == 42
        assert [event.n for event in t.sent(Ticked)] == [1, 2, 3]


def test_what_a_failed_attempt_sent_does_not_leave() -> None:
    app = App("plain")

    @app.handles(Plain)
    async def tick(command: Plain, context: Context) -> None:
        context.send(Ticked(n=context.attempt))
        if context.attempt == 1:
            raise OSError("not yet")

    with testing(app) as t:
        t.send(Plain())
        t.drain()
        assert t.sent(Ticked) == []
        t.advance(3600)
        t.drain()
        assert [event.n for event in t.sent(Ticked)] == [2]


def test_what_is_sent_with_a_delay_waits() -> None:
    app = App("plain")

    @app.handles(Plain)
    async def again(command: Plain, context: Context) -> None:
        if command.n < 2:
            context.send(Plain(n=command.n + 1), delay=60.0)

    with testing(app) as t:
        t.send(Plain(n=0))
        t.drain()
        assert t.depth("plain.default") == (0, 1)
        t.advance(61)
        t.drain()
        assert [command.n for command in t.sent(Plain)] == [0, 1, 2]


def test_each_kind_of_handler_may_send() -> None:
    app = App("plain")

    @app.handles(Plain)
    async def first(command: Plain, context: Context) -> None:
        context.send(Ticked(n=1))

    @app.handles(Plain)
    def second(command: Plain, context: Context) -> None:
        context.send(Ticked(n=2))

    @app.on(Ticked)
    def hear(event: Ticked, context: Context) -> None:
        if event.n < 10:
            context.send(Ticked(n=event.n + 10))

    @app.task
    def work(n: int, context: Context) -> int:
        context.send(Ticked(n=n))
        return n

    @app.handles(BidNow)
    def now(command: BidNow, context: Context) -> str:
        context.send(Ticked(n=30))
        return "at once"

    with testing(app) as t:
        t.send(Plain())
        assert t.ask(work.message(20)) == 20
        assert t.ask(BidNow(user="a", amount=1)) == "at once"
        t.drain()
        assert sorted(event.n for event in t.sent(Ticked)) == [1, 2, 11, 12, 20, 30]


def test_a_command_without_a_queue_is_stored_and_handled_by_a_worker() -> None:
    app, done = App("plain"), list[int]()

    @app.handles(Plain)
    async def work(command: Plain) -> None:
        done.append(command.n)

    app.schedule(every(60), Plain(n=9))
    with testing(app) as t:
        assert app.send(Plain(n=1)).outcome == "stored"
        assert done == []
        assert t.depth("plain.default") == (1, 0)
        t.drain()
        assert done == [1]


@pytest.mark.parametrize("name", ["", "a,b", "a*", "two words", "{x}", "x" * 101])
def test_a_name_that_cannot_stand_in_the_name_of_a_queue_is_refused(name: str) -> None:
    with pytest.raises(DefinitionError, match="it is part of the names of queues"):
        App(name)


def test_two_applications_on_one_engine_take_nothing_of_each_other(tmp_path: Path) -> None:
    settings = Settings(broker=f"sqlite:///{tmp_path}/chappe.db")

    def program(name: str) -> App:
        app = App(name, settings=settings)

        @app.task
        async def work(n: int) -> None: ...

        @app.task(queue="default")
        async def other_work(n: int) -> None: ...

        @app.on(Ticked)
        async def notify(event: Ticked) -> None: ...

        @app.on(Ticked, name="shared")
        async def one_of_us(event: Ticked) -> None: ...

        app.send([work.message(1), other_work.message(2)])
        return app

    billing, shipping = program("billing"), program("shipping")
    try:
        assert billing.registry.consumed_queues() == ["billing.default", "billing.on.notify", "shared"]
        assert shipping.registry.consumed_queues() == ["shared", "shipping.default", "shipping.on.notify"]
        billing.publish(Ticked(n=1))

        async def waiting() -> dict[str, int]:
            connection = await billing.connection()
            return {queue.name: queue.ready for queue in (await connection.store.overview()).queues}

        assert billing.wait_for(waiting()) == {
            "billing.default": 2, "billing.on.notify": 1, "shared": 1, "shipping.default": 2, "shipping.on.notify": 1,
        }  # fmt: skip
    finally:
        billing.close()
        shipping.close()


def test_schedules_unique_keys_and_idempotency_keys_belong_to_their_application(tmp_path: Path) -> None:
    class Invite(Command, unique="{user}"):
        user: int

    def program(name: str) -> App:
        app = App(name, settings=Settings(broker=f"sqlite:///{tmp_path}/chappe.db"))
        app.knows(Invite, Sync)
        app.schedule(every(60), Sync(house=1, what=frozenset()), name="nightly")
        return app

    apps = [program("billing"), program("shipping")]
    try:
        assert [app.schedules[0].name for app in apps] == ["billing:nightly", "shipping:nightly"]
        first, second = ([app.send(Invite(user=n)) for n in (1, 1)] for app in apps)
        assert [receipt.outcome for receipt in (*first, *second)] == ["stored", "duplicate"] * 2
        for app, house in zip(apps, (1, 2), strict=True):
            message = Sync(house=house, what=frozenset("ab"))
            assert app.send(message, idempotency_key="k").outcome == "stored", "another body with the same key is no reuse of it"
            assert app.send(message, idempotency_key="k").outcome == "duplicate"
    finally:
        for app in apps:
            app.close()


def test_an_empty_sequence_is_nothing() -> None:
    auction = Auction()
    with testing(auction.app):
        assert auction.app.send([]) == []


def test_a_merging_sequence_answers_each_and_stores_one() -> None:
    auction = Auction()
    with testing(auction.app) as t:
        receipts = auction.app.send([Sync(house=1, what=frozenset(w)) for w in "abc"] + [Sync(house=2, what=frozenset("z"))])
        assert [r.outcome for r in receipts] == ["stored", "merged", "merged", "stored"]
        assert len({r.id for r in receipts[:3]}) == 1
        t.drain()
        assert sorted(auction.log) == ["sync 1 abc", "sync 2 z"]


def test_an_idempotency_key_is_taken_once_and_refuses_another_body() -> None:
    auction = Auction()
    with testing(auction.app) as t:
        first = auction.app.send(Bid(user="Ada", amount=70), idempotency_key="k")
        again = auction.app.send(Bid(user="Ada", amount=70), idempotency_key="k")
        assert (again.id, again.outcome) == (first.id, "duplicate")
        with pytest.raises(KeyReused):
            auction.app.send(Bid(user="Ada", amount=71), idempotency_key="k")
        t.drain()
        assert auction.log == HANDLED
        assert auction.app.send(Bid(user="Ada", amount=70), idempotency_key="k").outcome == "duplicate", "also when it is done"
        t.advance(25 * 3600)
        assert auction.app.send(Bid(user="Ada", amount=70), idempotency_key="k").outcome == "stored"


def test_delay_and_priority_of_one_message() -> None:
    auction = Auction()
    with testing(auction.app) as t:
        t.send(Bid(user="late", amount=70), delay=60)
        t.send(Bid(user="low", amount=70))
        t.send(Bid(user="high", amount=70), priority=5)
        t.drain()
        assert [line for line in auction.log if line.startswith("user")] == ["user high", "user low"]
        t.advance(61)
        t.drain()
        assert "user late" in auction.log


# --- events


def test_an_event_reaches_each_subscriber_by_name_or_pattern_and_nobody_else() -> None:
    auction, heard = Auction(), list[str]()
    app = auction.app

    @app.on(BidRaised)
    async def raised(event: BidRaised) -> None:
        heard.append(f"raised {event.amount}")

    @app.on("bid.*")
    def anything(event: Event) -> None:
        heard.append(f"any {type(event).__name__}")

    @app.on("lot.#")
    async def lots(event: Event) -> None:
        heard.append("lot")

    app.knows(BidLost)
    with testing(app) as t:
        t.publish(BidRaised(lot="clock", amount=70))
        t.publish(BidLost(lot="clock"))
        t.drain()
    assert sorted(heard) == ["any BidLost", "any BidRaised", "raised 70"]


def test_a_temporary_subscriber_is_there_all_the_time_in_tests() -> None:
    app, heard = App("events"), list[int]()

    @app.on(BidRaised, temporary=True)
    async def listen(event: BidRaised) -> None:
        heard.append(event.amount)

    with testing(app) as t:
        for amount in (1, 2):
            t.publish(BidRaised(lot="clock", amount=amount))
            t.drain()
    assert heard == [1, 2]


def test_a_subscriber_that_fails_is_retried_alone() -> None:
    app, heard = App("events"), list[str]()

    @app.on(BidRaised)
    async def good(event: BidRaised) -> None:
        heard.append("good")

    @app.on(BidRaised)
    async def bad(event: BidRaised, context: Context) -> None:
        heard.append("bad")
        if context.attempt == 1:
            raise OSError("once")

    with testing(app) as t:
        t.publish(BidRaised(lot="clock", amount=1))
        t.drain()
        t.advance(60)
        t.drain()
    assert sorted(heard) == ["bad", "bad", "good"]


def test_an_event_without_subscribers_is_archived_and_no_error() -> None:
    app = App("events")
    app.knows(BidLost)
    with testing(app) as t:
        assert t.publish(BidLost(lot="vase")).outcome == "stored"

        async def archived() -> Sequence[Any]:
            return (await (await app.connection()).store.archived(0, 10)).records

        (record,) = app.wait_for(archived())
        assert (record.seq, record.routing_key) == (1, "bid.lost")


# --- twins, and being used where one is


async def test_the_asynchronous_verbs_do_what_their_twins_do() -> None:
    auction = Auction()
    async with testing(auction.app) as t:
        receipt = await auction.app.asend(Bid(user="Ada", amount=70))
        receipts = await auction.app.asend([Once(name="a"), Once(name="a")])
        await auction.app.apublish(BidLost(lot="vase"))
        asked = asyncio.ensure_future(auction.app.aask(Sync(house=3, what=frozenset("q"))))
        while not t.sent(Sync):
            await asyncio.sleep(0.005)
        await asyncio.to_thread(t.drain)
        assert await asked == ["q"]
        assert receipt.outcome == "stored"
        assert [r.outcome for r in receipts] == ["stored", "duplicate"]
        assert t.sent(BidLost) == [BidLost(lot="vase")]
    assert [line for line in auction.log if not line.startswith("sync")][:3] == HANDLED


def test_the_synchronous_verbs_work_in_many_threads_at_once() -> None:
    auction = Auction()
    with testing(auction.app) as t:
        threads = [threading.Thread(target=lambda: [auction.app.send(Bid(user="u", amount=70)) for _ in range(20)]) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert t.depth("bids") == (160, 0)


async def test_two_event_loops_have_a_connection_each(tmp_path: Path) -> None:
    app = App("app", settings=Settings(broker=f"sqlite:///{tmp_path}/chappe.db"))
    app.knows(Bid)
    await app.asend(Bid(user="a", amount=70))
    await asyncio.to_thread(lambda: asyncio.run(_send_and_close(app)))
    await asyncio.to_thread(app.send, Bid(user="c", amount=70))
    connection = await app.connection()
    assert (await connection.broker.depth("bids")).ready == 3
    await asyncio.to_thread(app.close)
    await app.aclose()


async def _send_and_close(app: App) -> None:
    await app.asend(Bid(user="b", amount=70))
    await app.aclose()


def test_sending_needs_nothing_running(tmp_path: Path) -> None:
    app = App("app", settings=Settings(broker=f"sqlite:///{tmp_path}/chappe.db"))
    app.knows(Bid)
    app.send(Bid(user="a", amount=70))
    app.close()
    app.send(Bid(user="b", amount=70))
    app.close()

    async def count() -> int:
        engine = Engine(tmp_path / "chappe.db", grace=0.0)
        app.configure(app.settings, engine=engine)
        depth = await (await app.connection()).broker.depth("bids")
        await app.aclose()
        engine.close()
        return depth.ready

    assert asyncio.run(count()) == 2


def test_where_no_engine_comes_a_send_fails_within_its_deadline(tmp_path: Path) -> None:
    app = App("app")
    app.configure(Settings(broker=f"sqlite:///{tmp_path}/chappe.db", deadline=0.3), may_own_file=False)
    app.knows(Bid)
    with pytest.raises(BrokerUnavailable, match='is "chappe run" up'):
        app.send(Bid(user="a", amount=70))
    app.close()


# --- declaring


def test_everything_is_declared_before_the_first_message() -> None:
    app = App("app")

    @app.handles(BidNow)
    async def bid(command: BidNow) -> None: ...

    async def around(message: Any, context: Context, call_next: Any) -> Any: ...

    with testing(app) as t:
        t.send(BidNow(user="a", amount=70))
        for declare in (
            lambda: app.handles(Bid)(bid),
            lambda: app.on(BidRaised)(bid),
            lambda: app.use(around),
            lambda: app.task(lambda: None),
            lambda: app.schedule(every(60), Bid(user="a", amount=1)),
        ):
            with pytest.raises(TooLate):
                declare()


def test_handles_without_a_command_says_how_to_write_it() -> None:
    with pytest.raises(DefinitionError, match=r"@app\.handles\(SyncProperty\)"):
        App("app").handles()


def test_a_handler_of_one_queue_gets_only_what_comes_through_it() -> None:
    app, log = App("routes"), list[str]()

    class Push(Command, exchange="channels", routing_key="push.{channel}"):
        channel: str

    @app.handles(Push, queue=bind("ical", "channels:push.ical"))
    async def ical(command: Push) -> None:
        log.append(f"ical {command.channel}")

    @app.handles(Push, queue=bind("all", "channels:push.*"))
    async def all_of_them(command: Push) -> None:
        log.append(f"all {command.channel}")

    with testing(app) as t:
        t.send(Push(channel="ical"))
        t.send(Push(channel="alpine"))
        t.drain()
    assert sorted(log) == ["all alpine", "all ical", "ical ical"]


def test_what_is_provided_is_one_instance_closed_at_the_end() -> None:
    app, seen, closed = App("providers"), list[int](), list[str]()

    class Tool:
        pass

    @app.provides
    def tool() -> Iterator[Tool]:
        yield Tool()
        closed.append("tool")

    @app.handles(Bid)
    async def first(command: Bid, tool: Tool) -> None:
        seen.append(id(tool))

    @app.handles(Bid)
    def second(command: Bid, tool: Tool) -> None:
        seen.append(id(tool))

    with testing(app) as t:
        t.send([Bid(user="a", amount=70), Bid(user="b", amount=70)])  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
        t.drain()
        assert len(seen) == 4 and len(set(seen)) == 1
        assert closed == []
    assert closed == ["tool"]


FORKING = """
import os, sys
from chappe import App, Command
app = App("forking")

class Job(Command, queue="jobs"):
    n: int

app.send(Job(n=1))
child = os.fork()
if child == 0:
    app.send(Job(n=2))
    os._exit(0)
_, status = os.waitpid(child, 0)
app.send(Job(n=3))
sys.exit(os.waitstatus_to_exitcode(status))
"""


def test_a_forked_child_sends_over_a_connection_of_its_own(tmp_path: Path) -> None:
    ended = subprocess.run([sys.executable, "-W", "ignore", "-c", FORKING], cwd=tmp_path, timeout=200, check=False)
    assert ended.returncode == 0
    shown = subprocess.run([sys.executable, "-m", "chappe", "inspect", "jobs", "--json"], cwd=tmp_path, capture_output=True, check=True)
    assert sorted(row["body"]["n"] for row in json.loads(shown.stdout)) == [1, 2, 3]


def test_synchronous_inline_commands_run_side_by_side() -> None:
    app, together = App("plain"), threading.Barrier(3)

    @app.handles(BidNow)
    def meet(command: BidNow) -> int:
        return together.wait(60)

    async def all_three() -> list[int]:
        return await asyncio.gather(*(app.aask(BidNow(user=name, amount=1)) for name in "abc"))

    async def main() -> list[int]:
        try:
            return await all_three()
        finally:
            await app.aclose()

    assert sorted(asyncio.run(main())) == [0, 1, 2]
    assert sorted(asyncio.run(main())) == [0, 1, 2], "in the next event loop too"


def test_an_inline_command_is_given_what_belongs_to_its_event_loop() -> None:
    app = App("plain")

    class Client:
        def __init__(self) -> None:
            self.loop = asyncio.get_running_loop()

    @app.provides
    async def client() -> Client:
        return Client()

    @app.handles(BidNow)
    async def use(command: BidNow, client: Client) -> bool:
        return client.loop is asyncio.get_running_loop()

    async def main() -> Any:
        return await app.aask(BidNow(user="a", amount=1))

    assert [asyncio.run(main()), asyncio.run(main()), app.ask(BidNow(user="a", amount=1))] == [True, True, True]
    app.close()


@pytest.mark.parametrize("verb", ["send", "publish", "ask"])
async def test_a_blocking_verb_inside_an_event_loop_works_and_says_so_once_with_the_place(
    verb: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    app = App("plain", settings=Settings(broker=f"sqlite:///{tmp_path}/chappe.db"))

    @app.handles(BidNow)
    async def now(command: BidNow) -> int:
        return 1

    app.knows(Ticked, Bid)
    message = {"send": Bid(user="a", amount=1), "publish": Ticked(), "ask": BidNow(user="a", amount=1)}[verb]
    call: Callable[[Any], Any] = getattr(app, verb)
    for _ in range(3):
        assert call(message)
    await asyncio.to_thread(call, message)
    said = [record.getMessage() for record in caplog.records if "blocks the event loop" in record.getMessage()]
    assert len(said) == 1
    assert said[0].startswith(__file__)
    assert f"await app.a{verb}(" in said[0]
    await asyncio.to_thread(app.close)


class Point(Command, inline=True):
    x: int


class Place(msgspec.Struct):
    x: int
    seen: set[int]


def test_a_result_is_returned_as_the_type_that_was_asked_for() -> None:
    app = App("plain")

    @app.handles(Plain)
    async def later(command: Plain) -> Place:
        return Place(command.n, {1, 2})

    @app.handles(Point)
    def now(command: Point) -> Place:
        return Place(command.x, {1, 2})

    @app.task
    async def place(x: int) -> Place:
        return Place(x, {1, 2})

    @app.task
    def count(x: int) -> Generator[Ticked, None, int]:
        yield Ticked(n=x)
        return x

    with testing(app):
        assert app.ask(Plain(n=3), returns=Place) == Place(3, {1, 2})
        assert app.ask(Point(x=3), returns=Place) == Place(3, {1, 2})
        assert app.ask(Plain(n=3)) == {"x": 3, "seen": [1, 2]}
        assert place.ask(3) == Place(3, {1, 2})
        assert count.ask(3) == 3
        assert app.wait_for(place.aask(4)) == Place(4, {1, 2})
        with pytest.raises(InvalidMessage, match="the result of plain is not valid: .*Expected `int`, got `object`"):
            app.ask(Plain(n=3), returns=int)


@pytest.mark.parametrize("colour", ["async", "sync"])
def test_progress_is_shown_by_id(colour: str) -> None:
    app = App("plain")

    class Long(Command, results=True):
        pass

    if colour == "async":

        @app.handles(Long)
        async def work(command: Long, context: Context) -> None:
            await context.progress(3, 10, "pages")
    else:

        @app.handles(Long)
        def work_in_a_thread(command: Long, context: Context) -> None:
            context.progress(3, 10, "pages")

    with testing(app) as t:
        receipt = t.send(Long())
        t.drain()

        async def state() -> Any:
            return await (await app.connection()).store.state(receipt.id)

        assert app.wait_for(state()).progress == (3, 10, "pages")


def test_whether_a_message_can_be_sent_does_not_depend_on_what_was_sent_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    class FirstSent(Command, queue="first"):
        pass

    class SecondSent(Command, queue="second"):
        pass

    async def send_both() -> list[str]:
        app = App("senders")
        try:
            return [(await app.asend(message)).outcome for message in (FirstSent(), SecondSent(), FirstSent())]
        finally:
            await app.aclose()

    assert asyncio.run(send_both()) == ["stored"] * 3
    app = App("threads")
    assert [app.send(message).outcome for message in (FirstSent(), SecondSent())] == ["stored"] * 2
    app.close()


def test_a_program_that_imports_chappe_does_not_pay_for_the_engine_which_it_may_never_run() -> None:
    told = "import sys, chappe; print([name for name in sys.modules if name.startswith('chappe.engines.file.')])"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, timeout=100, check=True)
    assert done.stdout == "[]\n"
