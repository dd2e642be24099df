"""A move under traffic, in small: `python -m tests.faults.carry` does it with 200,000."""

from __future__ import annotations

from pathlib import Path

import pytest

from chappe import App
from chappe.errors import InvalidSettings
from chappe.messages.envelope import Envelope, Publication
from chappe.messages.topology import Topology, bind
from chappe.moving import Mover
from chappe.settings import Settings
from tests.faults.carry.run import carry
from tests.servers.postgres import PostgresNode
from tests.servers.rabbitmq import RabbitNode

_missing = RabbitNode.missing() or PostgresNode.missing()


@pytest.mark.proof
@pytest.mark.skipif(_missing is not None, reason=str(_missing))
@pytest.mark.parametrize("back", [False, True], ids=["from a file to RabbitMQ", "from RabbitMQ to a file"])
async def test_what_is_moved_while_others_send_and_handle_is_there_once_with_its_delay_its_key_and_its_death(
    tmp_path: Path, back: bool
) -> None:
    with RabbitNode(tmp_path / "rabbitmq") as rabbit, PostgresNode(tmp_path / "postgres") as postgres:
        account, moved, figures = await carry(tmp_path, {"CHAPPE_BROKER": rabbit.url, "CHAPPE_STORE": postgres.url}, 2_000, back=back)
    assert len(account.sent) == 2_000
    assert not account.lost
    assert not account.doubled
    assert figures["places"]["delayed"] == 100, "those that are due in an hour"
    assert figures["places"]["dead"] == 40, "with their errors"
    assert figures["places"]["target"] > 500, figures
    assert account.order
    out_of_order = {key: numbers for key, numbers in account.order.items() if numbers != sorted(numbers)}
    assert not out_of_order, "each key in its order, at either engine"
    assert sum(one.ready + one.delayed + one.dead for one in moved) > 1_000


async def test_an_engine_is_not_moved_onto_itself_however_it_is_spelled(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    source = App("source", settings=Settings(broker=f"sqlite:///{tmp_path}/chappe.db"))
    target = App("target", settings=Settings(broker=f"sqlite:///{tmp_path}/here/../chappe.db"))
    for app in (source, target):
        app.configure(app.settings)
    try:
        connection = await source.connection()
        await connection.broker.declare(Topology(queues=(bind("q"),)))
        await connection.broker.publish(
            [Publication(Envelope("a", "a", b"{}"), "q"), Publication(Envelope("b", "b", b"{}"), "q", delay=600.0)]
        )
        with pytest.raises(InvalidSettings, match="there already"):
            await Mover(connection, target).move()
        assert {q.name: (q.ready, q.delayed) for q in (await connection.store.overview()).queues} == {"q": (1, 1)}
    finally:
        await target.aclose()
        await source.aclose()
