"""Publishing from threads without an event loop: over one connection that all threads of a process share."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from msgspec.structs import replace
from psycopg import sql

from chappe.engines.postgres import blocking
from chappe.engines.postgres.blocking import PostgresPublisher
from chappe.engines.postgres.broker import PostgresBroker
from chappe.engines.postgres.rows import decode
from chappe.engines.postgres.store import PostgresStore
from chappe.errors import BrokerUnavailable, Unconfirmed
from chappe.messages.capabilities import Exchange
from chappe.messages.envelope import Envelope, Options, Publication, Receipt
from chappe.messages.topology import Topology, bind
from tests.servers.postgres import PostgresNode
from tests.servers.shared import Database

MASK = Options(key="k", merges=True)


def to(queue: str, name: str = "m", **wishes: object) -> Publication:
    return Publication(Envelope(name, "test", b"{}"), queue, **wishes)  # pyright: ignore[reportArgumentType] - wishes of a publication


def receipts(publisher: PostgresPublisher, *publications: Publication) -> list[Receipt]:
    """Publish as `App.send` does, from whichever thread this is."""
    work = publisher.publish(publications)
    try:
        work.send(None)
    except StopIteration as ended:
        return ended.value
    raise AssertionError("it suspended")


def stepped(publisher: PostgresPublisher, *publications: Publication) -> list[str]:
    """Publish, and return the ids."""
    return [receipt.id for receipt in receipts(publisher, *publications)]


@pytest.fixture
async def name(postgres: Database) -> str:
    """A queue that is declared, in a schema that is there."""
    name = f"blocking-{uuid4().hex[:8]}"
    await declare(postgres.url, name)
    return name


async def declare(url: str, *queues: str) -> None:
    """Declare queues as another program would."""
    broker = PostgresBroker(url)
    await broker.declare(Topology(queues=tuple(bind(queue) for queue in queues)))
    await broker.close()


async def waiting(url: str, queue: str) -> list[str]:
    """Return the ids of what is ready."""
    broker = PostgresBroker(url)
    found = [one.envelope.id for one in (await PostgresStore(broker).look(queue, "ready", limit=1000)).messages]
    await broker.close()
    return found


Make = Callable[..., PostgresPublisher]


@pytest.fixture
def make() -> Iterator[Make]:
    """Make publishers, which are closed in the end."""
    made: list[PostgresPublisher] = []

    def publisher(url: str, *queues: str, deadline: float = 20.0) -> PostgresPublisher:
        topology = Topology(queues=tuple(bind(q) for q in queues))
        made.append(PostgresPublisher(url, lambda: topology, deadline=deadline))
        return made[-1]

    yield publisher
    for one in made:
        one.close()


async def test_it_declares_by_itself_and_what_is_published_is_ready_in_its_order(postgres: Database, name: str, make: Make) -> None:
    mine = f"{name}.mine"
    publisher = make(postgres.url, mine)
    assert publisher.takes([to(mine)])
    assert stepped(publisher, *(to(mine, f"m{n}") for n in range(3))) == ["m0", "m1", "m2"]
    assert await waiting(postgres.url, mine) == ["m0", "m1", "m2"]


async def test_what_needs_more_than_one_statement_is_left_to_an_event_loop(postgres: Database, name: str) -> None:
    topology = Topology(exchanges=(Exchange("kept", "topic", 60.0),), queues=(bind(name), bind(f"{name}-kept", "kept:a.#")))
    publisher = PostgresPublisher(postgres.url, lambda: topology, deadline=20.0)
    assert publisher.takes([to(name), to(name, priority=5)])
    assert not publisher.takes([to(name), to(name, options=MASK)])
    for options in (Options(key="k"), replace(MASK, tracked=True), replace(MASK, unique="u"), replace(MASK, idempotency_key="i")):
        assert not publisher.takes([to(name, options=options)])
    assert publisher.takes([to(name, options=MASK)])
    assert not publisher.takes([to(name, options=MASK, delay=1.0)])
    assert not publisher.takes([to(name, delay=1.0)])
    assert not publisher.takes([to("nowhere")])
    assert not publisher.takes([Publication(Envelope("e", "test", b"{}"), "a.b", exchange="kept", options=MASK)])
    publisher.close()


async def test_a_queue_that_became_fair_since_it_was_judged_takes_nothing_without_a_tenant(
    postgres: Database, name: str, make: Make
) -> None:
    publisher = make(postgres.url, name)
    assert publisher.takes([to(name, "judged")])
    broker = PostgresBroker(postgres.url)
    await broker.declare(Topology(queues=(bind(name, fair=True),)))
    await broker.close()
    for identity in ("of another thread", "judged"):  # the first reads the routes anew for both
        with pytest.raises(BrokerUnavailable, match="nothing was stored, try again"):
            stepped(publisher, to(name, identity))
    assert await waiting(postgres.url, name) == []


async def archived(url: str, after: int, exchange: str) -> list[tuple[str, str]]:
    """Return the routing keys and ids of what an exchange archived behind a position."""
    broker = PostgresBroker(url)
    page = await PostgresStore(broker).archived(after, 1000)
    await broker.close()
    return [(record.routing_key, record.envelope.id) for record in page.records if record.exchange == exchange]


async def test_what_an_exchange_keeps_is_archived_without_an_event_loop_whether_queues_take_it_or_not(
    postgres: Database, name: str
) -> None:
    def event(identity: str, key: str) -> Publication:
        return Publication(Envelope(identity, "test", b"{}"), key, exchange=f"{name}-kept")

    queues = (bind(f"{name}-one", f"{name}-kept:one.#"), bind(f"{name}-two", f"{name}-kept:*.both"))
    topology = Topology(exchanges=(Exchange(f"{name}-kept", "topic", 60.0),), queues=queues)
    publisher = PostgresPublisher(postgres.url, lambda: topology, deadline=20.0)
    broker = PostgresBroker(postgres.url)
    before = (await PostgresStore(broker).archived(0, 0)).end
    await broker.close()
    for events in (
        [event("a", "one.x"), event("b", "one.x")],
        [event("c", "one.both"), event("d", "none")],
        [event("e", "none")],
        [event("f", "one.x")],
    ):
        assert publisher.takes(events)
        assert stepped(publisher, *events) == [e.envelope.id for e in events]
    publisher.close()
    kept = [("one.x", "a"), ("one.x", "b"), ("one.both", "c"), ("none", "d"), ("none", "e"), ("one.x", "f")]
    assert await archived(postgres.url, before, f"{name}-kept") == kept
    assert await waiting(postgres.url, f"{name}-one") == ["a", "b", "c", "f"]
    assert await waiting(postgres.url, f"{name}-two") == ["c"]


def test_for_what_needs_an_event_loop_no_connection_is_opened(make: Make) -> None:
    publisher = make("postgresql://nobody@127.0.0.1:1/none", "q", deadline=20.0)
    wishes: list[dict[str, Any]] = [{"delay": 1.0}, {"options": Options(key="k")}, {"options": MASK, "priority": 1}]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("chappe.engines.postgres.blocking._Bounded.connect", lambda *_, **__: pytest.fail("it connects"))
        assert [publisher.takes([to("q", **wish)]) for wish in wishes] == [False, False, False]


async def test_a_database_without_the_schema_is_left_to_an_event_loop(postgres: Database, make: Make) -> None:
    fresh = f"fresh_{uuid4().hex[:8]}"
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute(sql.SQL("create database {}").format(sql.Identifier(fresh)))
    url = f"{postgres.url.rpartition('/')[0]}/{fresh}"
    publisher = make(url, "q")
    assert not publisher.takes([to("q")])
    await declare(url, "q")
    assert publisher.takes([to("q")])


async def test_what_others_declare_meanwhile_is_seen(postgres: Database, name: str, make: Make) -> None:
    publisher = make(postgres.url, name)
    assert publisher.takes([to(name)])
    await declare(postgres.url, f"{name}.later")
    assert stepped(publisher, to(name, "a")) == ["a"]
    assert publisher.takes([to(f"{name}.later")])
    assert await waiting(postgres.url, name) == ["a"]


async def test_threads_share_one_connection(postgres: Database, name: str, make: Make) -> None:
    publisher = make(postgres.url, name)
    while sessions(postgres.url):  # what was closed before is gone a moment later
        await asyncio.sleep(0.01)

    def work(n: int) -> None:
        assert publisher.takes([to(name)])
        stepped(publisher, to(name, f"m{n}"))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(80)))
    assert sessions(postgres.url) == 1
    assert sorted(await waiting(postgres.url, name)) == sorted(f"m{n}" for n in range(80))


def sessions(url: str) -> int:
    """Count the connections to a database, but for the one that asks."""
    with psycopg.connect(url) as connection:
        row = connection.execute("select count(*) - 1 from pg_stat_activity where datname = current_database()").fetchone()
    assert row is not None
    return int(row[0])


async def test_a_connection_that_the_server_closed_is_opened_again_and_nothing_is_in_doubt(
    postgres: Database, name: str, make: Make
) -> None:
    publisher = make(postgres.url, name)
    assert publisher.takes([to(name)])
    stepped(publisher, to(name, "before"))
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid() and datname = current_database()"
        )
    gone = publisher._connection
    while gone is not None and not gone._quiet.poll(0):  # the server ends a session some time after it was told to
        await asyncio.sleep(0.01)
    stepped(publisher, to(name, "after"))
    assert await waiting(postgres.url, name) == ["before", "after"]


async def test_a_forked_child_leaves_the_connection_to_its_parent(postgres: Database, name: str, make: Make) -> None:
    publisher = make(postgres.url, name)
    assert publisher.takes([to(name)])
    stepped(publisher, to(name, "parent"))
    child = os.fork()
    if not child:
        try:
            taken = publisher.takes([to(name)])
            publisher.close()
            topology = Topology(queues=(bind(name),))
            own = PostgresPublisher(postgres.url, lambda: topology, deadline=20.0)
            sent = own.takes([to(name)]) and stepped(own, to(name, "child")) == ["child"]
            own.close()
            os._exit(0 if sent and not taken else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    stepped(publisher, to(name, "again"))
    assert await waiting(postgres.url, name) == ["parent", "child", "again"]


def test_a_server_that_stands_still_or_is_away_is_an_error_that_says_what_may_be_stored(postgres_node: PostgresNode, make: Make) -> None:
    with psycopg.connect(postgres_node.url, autocommit=True) as connection:
        connection.execute("select 1")
    asyncio.run(declare(postgres_node.url, "still"))
    publisher = make(postgres_node.url, "still", deadline=2.0)
    assert publisher.takes([to("still")])
    stepped(publisher, to("still"))
    with postgres_node.frozen(), pytest.raises(Unconfirmed, match="may be stored or not"):
        stepped(publisher, to("still"))
    stepped(publisher, to("still"))
    postgres_node.stop()
    try:
        with pytest.raises(BrokerUnavailable, match="nothing was stored"):
            stepped(publisher, to("still"))
    finally:
        postgres_node.start()
    stepped(publisher, to("still"))


def test_what_interrupts_a_thread_leaves_no_answer_for_the_next(postgres: Database, make: Make) -> None:
    name = f"interrupted-{uuid4().hex[:8]}"  # no event loop here, which would hear the signal in place of the thread
    asyncio.run(declare(postgres.url, name))
    publisher = make(postgres.url, name)
    assert publisher.takes([to(name)])
    with psycopg.connect(postgres.url) as other:
        other.execute("set search_path = chappe")
        other.execute("lock table message in access exclusive mode")
        interrupted = threading.Event()

        def interrupt() -> None:
            while not interrupted.wait(2.0):  # again, because Python drops what a signal raises inside of a finalizer
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

        interrupting = threading.Thread(target=interrupt)
        before = signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever another test made of it
        interrupting.start()
        try:
            with pytest.raises(KeyboardInterrupt):
                stepped(publisher, to(name, "interrupted"))
        finally:
            interrupted.set()
            interrupting.join()
            signal.signal(signal.SIGINT, before)
        other.rollback()
    assert stepped(publisher, to(name, "next")) == ["next"]
    assert asyncio.run(waiting(postgres.url, name))[-1] == "next"


async def test_what_is_known_later_is_declared_before_it_is_sent(postgres: Database, name: str) -> None:
    known = [Topology(queues=(bind(name),))]
    publisher = PostgresPublisher(postgres.url, lambda: known[-1], deadline=20.0)
    later = f"{name}-later"

    def send_both() -> list[str]:
        assert publisher.takes([to(name)]) and not publisher.takes([to(later)])
        known.append(Topology(queues=(bind(name), bind(later))))
        assert publisher.takes([to(later)])
        return stepped(publisher, to(later, "a"))

    assert await asyncio.to_thread(send_both) == ["a"]
    assert await waiting(postgres.url, later) == ["a"]
    publisher.close()


def test_a_thread_that_waited_long_for_others_does_not_wait_for_a_new_connection_too(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    publisher, now, opened = make("postgresql://nobody@127.0.0.1:1/none", "q", deadline=20.0), [100.0], list[object]()
    monkeypatch.setattr("chappe.engines.postgres.blocking.steady", lambda: now[0])
    monkeypatch.setattr("chappe.engines.postgres.blocking._Bounded.connect", lambda *_, **__: opened.append(1))

    class Contended:
        """A lock that another thread gives back when most of the deadline is over."""

        def acquire(self, timeout: float) -> bool:
            now[0] += 15.0
            return timeout >= 15.0

        def release(self) -> None:
            opened.append("released")

    monkeypatch.setattr(publisher, "_using", Contended())
    with pytest.raises(BrokerUnavailable, match="other threads"):
        stepped(publisher, to("q"))
    assert opened == ["released"]
    monkeypatch.undo()


def test_where_the_server_is_silent_a_thread_says_so_and_no_event_loop_waits_as_long_again(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher, now = make("postgresql://nobody@127.0.0.1:1/none", "q", deadline=20.0), [100.0]
    monkeypatch.setattr("chappe.engines.postgres.blocking.steady", lambda: now[0])

    def connect(*_: object, **__: object) -> None:
        now[0] += 8.0
        raise psycopg.OperationalError("connection timeout expired")

    assert not publisher.takes([to("q")]), "what is refused at once an event loop tries again"
    monkeypatch.setattr("chappe.engines.postgres.blocking._Bounded.connect", connect)
    with pytest.raises(BrokerUnavailable, match="did not answer"):
        publisher.takes([to("q")])


async def test_what_threads_publish_through_an_exchange_is_counted(postgres: Database) -> None:
    name = f"counted-{uuid4().hex[:8]}"
    topology = Topology((Exchange(name),), (bind(f"{name}.a", f"{name}:k"), bind(f"{name}.b", f"{name}:k"), bind(f"{name}.c", f"{name}:c")))
    broker = PostgresBroker(postgres.url)
    await broker.declare(topology)
    publisher = PostgresPublisher(postgres.url, lambda: topology, deadline=60.0)
    both, one = (Publication(Envelope("m", "test", b"{}"), key, name) for key in "kc")
    assert publisher.takes([both, one])
    for publications in ([both], [one], [both, one]):
        stepped(publisher, *publications)
    assert (await broker.passed())[name] == (4, 6)
    publisher.close()
    await broker.close()


async def test_a_thread_merges_with_what_is_pending_and_is_shown_it_when_its_guess_is_wrong(
    postgres: Database, name: str, make: Make
) -> None:
    publisher = make(postgres.url, name)

    def mask(message_id: str, replaces: int | None = None) -> Receipt:
        publication = to(name, message_id, options=replace(MASK, replaces=replaces))
        assert publisher.takes([publication])
        return receipts(publisher, publication)[0]

    first = mask("first")
    shown = mask("second")
    assert (first.outcome, shown.outcome, shown.id, shown.version) == ("stored", "pending", "first", first.version)
    merged = mask("first", shown.version)
    assert merged.outcome == "merged" and merged.version != first.version
    late = mask("first", shown.version)
    assert (late.outcome, late.id, late.version) == ("pending", "first", merged.version) and late.pending is not None
    broker = PostgresBroker(postgres.url)
    async with broker.consume([name], prefetch=1) as consumer:
        await consumer.receive(1, 60.0)
        begun = mask("first", merged.version)
        assert (begun.outcome, begun.pending) == ("pending", None), "it runs: whoever merged with it sends his own"
        assert mask("third").outcome == "stored"
    await broker.close()


async def test_of_threads_that_change_one_mask_at_once_each_is_shown_what_the_others_made_of_it(
    postgres: Database, name: str, make: Make
) -> None:
    senders = [make(postgres.url, name) for _ in range(4)]

    def add(publisher: PostgresPublisher, number: int) -> None:
        mine = to(name, f"m{number}", options=MASK)
        assert publisher.takes([mine])
        tried = mine
        while (receipt := receipts(publisher, tried)[0]).outcome == "pending":
            tried = mine
            if receipt.pending is not None:
                body = receipt.pending.body + f"{number} ".encode()
                tried = replace(mine, envelope=replace(receipt.pending, body=body), options=replace(MASK, replaces=receipt.version))

    def add_some(publisher: PostgresPublisher) -> None:
        for number in range(25):
            add(publisher, 100 * senders.index(publisher) + number)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(add_some, senders))
    with psycopg.connect(postgres.url) as connection:
        ((envelope,),) = connection.execute(
            "select envelope from chappe.message join chappe.queue on queue = id where name = %s", (name,)
        ).fetchall()
    numbers = decode(envelope).body.removeprefix(b"{}").split()
    assert len(numbers) == len(set(numbers)) == 99, "the first one is what the others were merged into"


async def test_a_mask_of_which_the_connection_is_lost_is_said_again_where_that_does_no_harm(
    postgres: Database, name: str, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher = make(postgres.url, name)
    mask = to(name, "first", options=MASK)
    assert publisher.takes([mask])
    execute, lost = blocking._executed, list[Any]()

    def executed_and_lost(connection: Any, statements: Any) -> Any:
        found = execute(connection, statements)
        if statements in lost:
            return found
        lost.append(statements)
        raise psycopg.OperationalError("the connection is lost")

    monkeypatch.setattr(blocking, "_executed", executed_and_lost)
    stored = receipts(publisher, mask)[0]
    assert stored.outcome == "stored" and len(lost) == 2, "it was looked, and stored"
    with pytest.raises(Unconfirmed):
        receipts(publisher, replace(mask, options=replace(MASK, replaces=stored.version)))
    assert await waiting(postgres.url, name) == ["first"]


async def test_what_may_be_said_again_is_not_when_there_is_no_time_left_to_connect(
    postgres: Database, name: str, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher, now, said = make(postgres.url, name), [100.0], list[object]()
    mask = to(name, "first", options=MASK)
    assert publisher.takes([mask])

    def silent(_: object, statements: object) -> None:
        said.append(statements)
        now[0] += 16.0
        raise TimeoutError("no answer")

    monkeypatch.setattr(blocking, "steady", lambda: now[0])
    monkeypatch.setattr(blocking, "_executed", silent)
    with pytest.raises(Unconfirmed):
        receipts(publisher, mask)
    assert len(said) == 1
