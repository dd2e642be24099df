"""The outbox: what is committed leaves once and in order, what is rolled back never does."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from chappe import App, Command, Event, Unique, replace
from chappe.engines.contract.broker import Broker
from chappe.errors import BrokerUnavailable, DefinitionError, InvalidMessage, StorageFull, Unconfirmed
from chappe.integrations.sqlalchemy import Outbox
from chappe.messages.envelope import Publication, Receipt
from chappe.testing import Trial, testing

from ..servers import shared
from ..waiting import auntil


class Pay(Command, queue="payments"):
    order: int


class Sync(Command, queue="syncs", key="{place}"):
    place: int
    what: frozenset[str]

    def merge(self, newer: Self) -> Self:
        return replace(self, what=self.what | newer.what)


class Once(Command, queue="onces", unique=Unique("{order}")):
    order: int


class Paid(Event):
    order: int


class Inline(Command, inline=True):
    order: int


class Scene:
    """An application, its database with a table of orders, and the outbox between them."""

    def __init__(self, url: str) -> None:
        self.app = App("shop")
        self.handled = list[object]()

        @self.app.handles(Pay, Sync, Once)
        def handle(command: Command) -> None:
            self.handled.append(command)

        @self.app.handles(Inline)
        def handle_inline(command: Inline) -> None: ...

        metadata = sa.MetaData()
        self.orders = sa.Table("orders", metadata, sa.Column("id", sa.Integer, primary_key=True))
        self.outbox = Outbox(self.app, lambda: sa.create_engine(url), metadata)
        self.engine = sa.create_engine(url)
        metadata.create_all(self.engine)

    def waiting(self) -> list[str]:
        with self.engine.connect() as connection:
            return list(connection.scalars(sa.select(self.outbox.table.c.type).order_by(self.outbox.table.c.id)))

    def relay(self) -> int:
        return self.app.wait_for(self.outbox.relay())


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(f"sqlite:///{tmp_path / 'shop.db'}")
    yield made
    made.outbox.close()
    made.engine.dispose()


@pytest.fixture
def trial(scene: Scene) -> Iterator[Trial]:
    with testing(scene.app) as t:
        yield t


def test_an_order_and_its_messages_are_committed_together_and_leave_in_order(scene: Scene, trial: Trial) -> None:
    with Session(scene.engine) as session, session.begin():
        session.execute(sa.insert(scene.orders).values(id=1))
        first = scene.outbox.send(session, Pay(order=1))
        rest = scene.outbox.send(session, [Pay(order=2), Paid(order=1), Pay(order=3)])
    assert len({first, *rest}) == 4
    assert trial.depth("payments") == (0, 0)
    assert scene.relay() == 4
    assert scene.relay() == 0
    trial.drain()
    assert scene.handled == [Pay(order=n) for n in (1, 2, 3)]
    assert trial.sent(Paid) == [Paid(order=1)]
    assert scene.waiting() == []


def test_what_is_rolled_back_sends_nothing(scene: Scene, trial: Trial) -> None:
    with Session(scene.engine) as session, pytest.raises(ZeroDivisionError), session.begin():
        session.execute(sa.insert(scene.orders).values(id=1))
        scene.outbox.send(session, [Pay(order=n) for n in range(3)])
        raise ZeroDivisionError
    assert scene.relay() == 0
    assert trial.depth("payments") == (0, 0)


def test_a_connection_will_do_in_place_of_a_session(scene: Scene, trial: Trial) -> None:
    with scene.engine.begin() as connection:
        scene.outbox.send(connection, Pay(order=1))
    assert scene.relay() == 1


def test_w1_15000_commands_wait_for_one_commit(scene: Scene, trial: Trial) -> None:
    with scene.engine.begin() as connection:
        scene.outbox.send(connection, [Pay(order=n) for n in range(15_000)])
    moved = 0
    while (now := scene.relay()) > 0:
        moved += now
    assert moved == 15_000
    assert trial.depth("payments") == (15_000, 0)


def test_what_is_wrong_is_refused_before_anything_is_stored(scene: Scene, trial: Trial) -> None:
    with scene.engine.begin() as connection:
        with pytest.raises(DefinitionError, match="inline"):
            scene.outbox.send(connection, [Pay(order=1), Inline(order=1)])
        with pytest.raises(InvalidMessage):
            scene.outbox.send(connection, [Pay(order=1), Pay])  # type: ignore[list-item]
        with pytest.raises(InvalidMessage, match="delay"):
            scene.outbox.send(connection, Pay(order=1), delay=-1.0)
        assert scene.outbox.send(connection, []) == []
    assert scene.waiting() == []


def test_delay_priority_and_keys_travel_along(scene: Scene, trial: Trial) -> None:
    with scene.engine.begin() as connection:
        scene.outbox.send(connection, Pay(order=1), delay=1000.0)
        scene.outbox.send(connection, Pay(order=2), idempotency_key="k")
        scene.outbox.send(connection, Pay(order=3), priority=5)
        scene.outbox.send(connection, Pay(order=2), idempotency_key="k")
        scene.outbox.send(connection, [Once(order=7), Once(order=7)])
    assert scene.relay() == 6
    trial.drain()
    assert scene.handled.index(Pay(order=3)) < scene.handled.index(Pay(order=2))
    assert len(scene.handled) == 3
    assert trial.depth("payments") == (0, 1)


class Losing:
    """A broker that stores, and whose answer is lost as often as is said, or that is away."""

    def __init__(self, broker: Broker, *errors: Exception, stores: bool = True) -> None:
        self._broker = broker
        self._errors = list(errors)
        self._stores = stores
        self.published = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._broker, name)

    async def publish(self, publications: Sequence[Publication]) -> list[Receipt]:
        self.published += 1
        if not self._errors:
            return await self._broker.publish(publications)
        if self._stores:
            await self._broker.publish(publications)
        raise self._errors.pop(0)


async def _lose(scene: Scene, *errors: Exception, stores: bool = True) -> Losing:
    connection = await scene.app.connection()
    connection.broker = Losing(connection.broker, *errors, stores=stores)  # type: ignore[assignment]
    return connection.broker  # type: ignore[return-value]


def test_an_answer_that_was_lost_sends_nothing_twice(scene: Scene, trial: Trial) -> None:
    with scene.engine.begin() as connection:
        scene.outbox.send(connection, [Pay(order=1), Sync(place=1, what={"a"}), Sync(place=1, what={"b"}), Pay(order=2)])
    scene.app.wait_for(_lose(scene, *[Unconfirmed("lost")] * 3))
    for _ in range(3):
        with pytest.raises(Unconfirmed):
            scene.relay()
    assert scene.relay() + scene.relay() > 0
    assert scene.waiting() == []
    trial.drain()
    assert len(scene.handled) == 3
    assert all(one in scene.handled for one in (Pay(order=1), Pay(order=2), Sync(place=1, what={"a", "b"})))


@pytest.mark.parametrize("error", [BrokerUnavailable("away"), StorageFull("full")])
def test_a_broker_that_is_away_or_full_keeps_everything_in_the_table(scene: Scene, trial: Trial, error: Exception) -> None:
    with scene.engine.begin() as connection:
        scene.outbox.send(connection, [Pay(order=1), Pay(order=2)])
    scene.app.wait_for(_lose(scene, error, stores=False))
    with pytest.raises(type(error)):
        scene.relay()
    assert len(scene.waiting()) == 2
    assert scene.relay() == 2


class Nowhere(Command, queue="nowhere"):
    order: int


def test_one_that_is_refused_stays_with_its_reason_and_holds_up_no_other(
    scene: Scene, trial: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.app.registry.topology()

    async def remove() -> None:
        connection = await scene.app.connection()
        await connection.broker.purge("nowhere", delete=True)

    with scene.engine.begin() as connection:
        scene.outbox.send(connection, [Pay(order=1), Nowhere(order=1), Pay(order=2)])
    scene.app.wait_for(remove())
    assert scene.relay() == 2
    assert scene.waiting() == ["nowhere"]
    assert scene.relay() == 0  # not before a minute
    with scene.engine.connect() as connection:
        assert "nowhere" in connection.scalar(sa.select(scene.outbox.table.c.error))
    monkeypatch.setattr("chappe.integrations.sqlalchemy.AFTER_REFUSAL", -1.0)
    scene.app.wait_for(declare(scene, "nowhere"))
    assert scene.relay() == 1


async def declare(scene: Scene, queue: str) -> None:
    from chappe.messages.topology import Topology, bind

    await (await scene.app.connection()).broker.declare(Topology(queues=(bind(queue),)))


async def test_run_relays_what_is_committed_meanwhile_and_bears_what_is_away(scene: Scene) -> None:
    with testing(scene.app):
        losing = await _lose(scene, BrokerUnavailable("away"), stores=False)
        running = asyncio.create_task(scene.outbox.run())
        with scene.engine.begin() as connection:
            scene.outbox.send(connection, Pay(order=1))
        await auntil(lambda: not scene.waiting(), "the message to leave")
        assert losing.published == 2
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        await scene.app.aclose()


def test_two_relays_on_postgresql_share_the_work_and_send_nothing_twice(postgres: shared.Database) -> None:
    scene = Scene(postgres.url.replace("postgresql://", "postgresql+psycopg://"))
    other = Outbox(App("other"), lambda: scene.engine)
    other.app = scene.app
    with testing(scene.app) as t:
        with scene.engine.begin() as connection:
            scene.outbox.send(connection, [Pay(order=n) for n in range(2_000)])

        async def both() -> int:
            moved = 0
            while now := sum(await asyncio.gather(scene.outbox.relay(), other.relay())):
                moved += now
            return moved

        assert scene.app.wait_for(both()) == 2_000
        assert t.depth("payments") == (2_000, 0)
        t.drain(timeout=60.0)
        assert len({command.order for command in scene.handled}) == len(scene.handled) == 2_000  # type: ignore[attr-defined]
    scene.outbox.close()
    scene.engine.dispose()


def test_each_integration_is_imported_without_the_others_and_chappe_without_any() -> None:
    code = (
        "import sys, chappe; assert not {'fastapi', 'sqlalchemy', 'django'} & set(sys.modules)\n"
        "import chappe.integrations.%s; assert not {'%s', 'django'} & set(sys.modules)"
    )
    for one, other in (("sqlalchemy", "fastapi"), ("fastapi", "sqlalchemy")):
        subprocess.run([sys.executable, "-c", code % (one, other)], check=True)
