"""A network that swallows what is said and says nothing of it: no verb waits for it without bound, and all goes on when it is over."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from urllib.parse import urlsplit, urlunsplit

import pytest

from chappe.engines.contract.broker import Ack, Consumer, Delivery, Depth
from chappe.engines.postgres.blocking import PostgresPublisher
from chappe.engines.postgres.broker import PostgresBroker
from chappe.engines.postgres.database import Cursor
from chappe.engines.postgres.store import PostgresStore
from chappe.errors import BrokerError
from chappe.messages.envelope import Envelope, Options, Publication
from chappe.messages.topology import Topology, bind

from ...faults.rounds.wire import Wire
from ...waiting import PATIENCE, auntil

_DEADLINE = 2.0
Verb = Callable[[PostgresBroker], Awaitable[object]]


@pytest.fixture
def wire(url: str) -> Iterator[Wire]:
    parts = urlsplit(url)
    made = Wire(str(parts.hostname), int(parts.port or 5432))
    yield made
    made.close()


@pytest.fixture
async def far(url: str, broker: PostgresBroker, wire: Wire) -> str:
    """The URL of the database behind the wire."""
    await broker.declare(Topology(queues=(bind("q"),)))
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{parts.netloc.rpartition('@')[0]}@127.0.0.1:{wire.port}"))


@pytest.fixture
async def remote(far: str, broker: PostgresBroker) -> AsyncIterator[PostgresBroker]:
    """A broker behind the wire; beside it, `broker` sees what is."""
    made = PostgresBroker(far, deadline=_DEADLINE)
    await made.queues()
    yield made
    await made.close()


def message(name: str) -> Publication:
    return Publication(Envelope(name, "t", b"{}"), "q")


def half_open(wire: Wire) -> AbstractContextManager[None]:
    """Swallow what comes over the connections that there are, for ever: their peer has vanished."""
    wire.fall_silent()
    return nullcontext()


def parted(wire: Wire) -> AbstractContextManager[None]:
    """Swallow that, and what comes over new connections until the end of the block."""
    return wire.silent()


FAULTS = pytest.mark.parametrize("fault", [half_open, parted])


async def received(consumer: Consumer) -> list[Delivery]:
    try:
        return await consumer.receive(10, 0.5)
    except BrokerError:
        return []


@FAULTS
async def test_a_consumer_receives_again_when_the_network_does(
    remote: PostgresBroker, broker: PostgresBroker, wire: Wire, fault: Callable[[Wire], AbstractContextManager[None]]
) -> None:
    async with remote.consume(["q"], prefetch=10) as consumer:
        assert await consumer.receive(10, 0.0) == []
        with fault(wire):
            await received(consumer)
        await broker.publish([message("m")])
        (delivery,) = await auntil(lambda: received(consumer), "the consumer to receive")
        assert await consumer.settle([Ack(delivery.tag)]) == []


@FAULTS
async def test_what_ran_while_the_network_was_silent_is_settled_after_it(
    remote: PostgresBroker, broker: PostgresBroker, wire: Wire, fault: Callable[[Wire], AbstractContextManager[None]]
) -> None:
    await broker.publish([message("m")])
    async with remote.consume(["q"], prefetch=10) as consumer:
        (delivery,) = await consumer.receive(10, PATIENCE)

        async def settled() -> bool:
            try:
                return await consumer.settle([Ack(delivery.tag)]) == []
            except BrokerError:
                return False

        with fault(wire):
            early = await settled()
        assert early or await auntil(settled, "the settlement to be heard")
    assert await broker.depth("q") == Depth()


async def test_a_transaction_of_which_the_network_swallowed_the_end_is_in_nobodys_way_for_long(
    remote: PostgresBroker, broker: PostgresBroker, wire: Wire
) -> None:
    await broker.publish([message("m")])
    async with remote.consume(["q"], prefetch=10) as consumer:
        (delivery,) = await consumer.receive(10, PATIENCE)

        async def work(cursor: Cursor) -> None:
            await cursor.execute("select 1 from running for update")
            wire.fall_silent()
            await cursor.execute("select 1")

        with pytest.raises(BrokerError):
            await remote.database.run(work)

        async def settled() -> bool:
            try:
                return await consumer.settle([Ack(delivery.tag)]) == []
            except BrokerError:
                return False

        await auntil(settled, "the settlement to be heard")


VERBS: dict[str, Verb] = {
    "publish": lambda remote: remote.publish([message("m")]),
    "publish with an option": lambda remote: remote.publish([Publication(Envelope("m", "t", b"{}"), "q", delay=1.0)]),
    "declare": lambda remote: remote.declare(Topology(queues=(bind("other"),))),
    "depth": lambda remote: remote.depth("q"),
    "purge": lambda remote: remote.purge("q"),
    "preflight": lambda remote: remote.preflight(),
    "overview": lambda remote: PostgresStore(remote).overview(),
    "result": lambda remote: PostgresStore(remote).result("m", 0.1),
    "archived": lambda remote: PostgresStore(remote).archived(0, 10, wait=0.1),
}


async def test_no_verb_waits_for_a_silent_network_without_bound(far: str, wire: Wire) -> None:
    remotes = {verb: PostgresBroker(far, deadline=_DEADLINE) for verb in VERBS}
    await asyncio.gather(*(remote.queues() for remote in remotes.values()))
    fresh = PostgresBroker(far, deadline=_DEADLINE)
    async with remotes["publish"].consume(["q"], prefetch=10):
        with wire.silent():
            async with asyncio.timeout(PATIENCE):
                said = [VERBS[verb](remote) for verb, remote in remotes.items()]
                ended = await asyncio.gather(*said, fresh.queues(), return_exceptions=True)
        assert [type(error) for error in ended if not isinstance(error, BrokerError)] == []
        assert await auntil(lambda: _answers(remotes["publish"]), "the broker to answer again")
    await asyncio.gather(*(remote.close() for remote in (*remotes.values(), fresh)))


async def test_a_consumer_is_closed_while_the_network_is_silent(far: str, wire: Wire) -> None:
    remote = PostgresBroker(far, deadline=_DEADLINE)
    async with asyncio.timeout(PATIENCE):
        async with remote.consume(["q"], prefetch=10) as consumer:
            await consumer.receive(1, 0.0)
            wire.fall_silent()
        await remote.close()


async def _answers(remote: PostgresBroker) -> bool:
    try:
        return "q" in await remote.queues()
    except BrokerError:
        return False


def test_a_thread_that_publishes_gets_an_error_from_a_silent_network_and_publishes_after_it(far: str, wire: Wire) -> None:
    topology = Topology(queues=(bind("q"),))
    publisher = PostgresPublisher(far, lambda: topology, deadline=_DEADLINE)
    assert publisher.takes([message("m")])
    ended: list[object] = []

    def publish() -> None:
        try:
            asyncio.run(publisher.publish([message("m")]))  # it never suspends
            ended.append("published")
        except BrokerError as error:
            ended.append(error)

    def attempt() -> object:
        thread = threading.Thread(target=publish, daemon=True)
        thread.start()
        thread.join(PATIENCE)
        assert not thread.is_alive(), "the publisher hangs"
        return ended[-1]

    with wire.silent():
        assert isinstance(attempt(), BrokerError)
    assert attempt() == "published"
    publisher.close()


async def test_what_is_sent_over_a_connection_that_the_network_forgot_is_stored_and_not_in_doubt(
    remote: PostgresBroker, broker: PostgresBroker, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chappe.engines.postgres.database.QUIET", 0.0)
    wire.fall_silent()
    await remote.publish([message("m")])
    assert await broker.depth("q") == Depth(ready=1)


def test_what_a_thread_sends_over_a_connection_that_the_network_forgot_is_stored_and_not_in_doubt(
    far: str, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chappe.engines.postgres.blocking.QUIET", 0.0)
    topology = Topology(queues=(bind("q"),))
    publisher = PostgresPublisher(far, lambda: topology, deadline=_DEADLINE)
    assert publisher.takes([message("m")])
    wire.fall_silent()
    (receipt,) = asyncio.run(publisher.publish([message("m")]))  # it never suspends
    assert receipt.id == "m"
    publisher.close()


async def test_what_one_send_asks_one_after_the_other_has_one_deadline_together(
    broker: PostgresBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network may swallow each of the statements: their waits do not add up."""
    loop, ends = asyncio.get_running_loop(), list[float]()
    bounded = asyncio.timeout_at

    async def slow(*_: object, **__: object) -> list[object]:
        await asyncio.sleep(0.1)
        return []

    def seen(when: float) -> asyncio.Timeout:
        ends.append(when)
        return bounded(when)

    await broker.queues()
    monkeypatch.setattr(broker.database, "once", slow)
    monkeypatch.setattr("chappe.engines.postgres.database.asyncio.timeout_at", seen)
    latest = loop.time() + broker.database.deadline
    began = loop.time()
    await broker.publish([Publication(Envelope("m", "t", b"{}"), "q", options=Options(key="k", merges=True))])
    assert loop.time() - began >= 0.1, "the first look was slow"
    assert ends
    assert max(ends) < latest + 0.1, "what comes after it has only what is left"
