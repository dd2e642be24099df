"""`chappe run` on RabbitMQ and PostgreSQL: real servers, real processes, real signals."""

from __future__ import annotations

import collections
import json
import os
import re
import signal
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from chappe.engines.contract.broker import Ack, Delivery, Retry
from chappe.engines.postgres.broker import PostgresBroker
from chappe.engines.rabbitmq.broker import RabbitBroker
from chappe.engines.rabbitmq.names import RELAY
from chappe.errors import BrokerUnavailable
from chappe.messages.envelope import Envelope, Options, Publication
from chappe.messages.topology import Topology, bind

from ..contract.distributed import cut
from ..servers.postgres import PostgresNode
from ..servers.rabbitmq import RabbitNode
from ..servers.shared import Database, Vhost
from ..waiting import until
from .conftest import Mill

ONE = """
[pools.mill]
processes = 1
concurrency = {slots}
"""
TWO = """
[pools.mill]
processes = 2
concurrency = 1
"""


@pytest.fixture
def far(mill: Mill, rabbit: Vhost, postgres: Database) -> Iterator[Mill]:
    """A mill whose messages wait in RabbitMQ; what a test leaves there is purged."""
    mill.environment |= {"CHAPPE_BROKER": rabbit.url, "CHAPPE_STORE": postgres.url}
    yield mill
    if mill.process is not None and mill.process.poll() is None:
        mill.end()
    for queue in mill.queues():
        mill.chappe("purge", "-f", queue)


def test_what_a_killed_worker_ran_runs_elsewhere_at_once(far: Mill) -> None:
    far.configure(TWO)
    far.run("--no-gateway", "--no-scheduler")
    far.send(*(f"Work(name='w{n}', seconds=30)" for n in range(6)))
    until(lambda: len(far.lines("start")) == 2)
    first = far.lines("start")[0]
    os.kill(first.pid, signal.SIGKILL)
    killed = time.time()
    far.release()
    again = until(lambda: [line for line in far.lines("start") if line.name == first.name and line.at > killed])
    assert again
    until(lambda: len(set(far.names("end"))) == 6)
    far.end()


@pytest.mark.proof
def test_a_message_that_kills_its_worker_three_times_is_a_dead_letter_and_its_neighbours_are_not_blamed(far: Mill) -> None:
    far.configure(ONE.format(slots=1))
    far.run("--no-gateway", "--no-scheduler")
    far.send("Deadly()", *(f"Work(name='n{n}')" for n in range(20)))
    until(lambda: len(far.names("end")) >= 20, seconds=60)
    assert [line.attempt for line in far.lines("start") if line.name == "deadly"] == [1, 1, 1]
    assert {line.attempt for line in far.lines("end")} == {1}
    assert sorted(far.names("end")) == sorted(f"n{n}" for n in range(20)), "each ran exactly once"
    (letter,) = far.letters()
    assert (letter["type"], letter["reason"]) == ("deadly", "worker_lost")
    far.chappe("dead", "discard", "-f", str(letter["number"]))


def test_workers_go_on_after_both_servers_were_killed_and_nothing_confirmed_is_lost(
    mill: Mill, rabbit_node: RabbitNode, postgres_node: PostgresNode
) -> None:
    far = mill
    far.environment |= {"CHAPPE_BROKER": rabbit_node.url, "CHAPPE_STORE": postgres_node.url}
    far.configure(ONE.format(slots=10))
    far.run("--no-gateway", "--no-scheduler")
    far.send(*(f"Work(name='a{n}', seconds=30)" for n in range(20)))
    until(lambda: len(far.names("start")) >= 10)
    for node in (rabbit_node, postgres_node):
        node.kill()
        node.start()
    far.release()
    far.send("Work(name='later')")
    until(lambda: "later" in far.names("end"))
    until(lambda: {f"a{n}" for n in range(20)} <= set(far.names("end")))
    far.end()


def test_an_operator_sees_both_servers(far: Mill) -> None:
    far.send("Work(name='waits')")
    assert far.queues()["work"]["ready"] == 1
    assert re.search(r"RabbitMQ \d+\.\d+", far.chappe("status").stderr)
    rows = {row["check"]: row for row in json.loads(far.chappe("doctor", "--json").stdout)}
    assert {check for check, row in rows.items() if row["verdict"] == "wrong"} == set()
    assert {"servers", "rabbitmq rights", "rabbitmq queues", "postgresql durability", "postgresql sessions"} <= rows.keys()


def test_a_server_that_is_away_is_an_error(mill: Mill, postgres: Database) -> None:
    mill.environment |= {"CHAPPE_BROKER": "amqp://127.0.0.1:1/", "CHAPPE_STORE": postgres.url, "CHAPPE_DEADLINE": "1"}
    done = mill.chappe("queues", code=69)
    assert "127.0.0.1:1" in done.stderr


@pytest.mark.parametrize("stored", [True, False], ids=["after the store's commit", "before it"])
@pytest.mark.parametrize("key", [None, "k"], ids=["plain", "keyed"])
async def test_a_worker_that_dies_between_the_two_steps_of_a_retry_loses_nothing(
    rabbit: Vhost, postgres: Database, key: str | None, stored: bool
) -> None:
    queue = f"steps-{os.urandom(4).hex()}"
    async with connected(rabbit, postgres) as (sender, _):
        await sender.declare(Topology(queues=(bind(queue),)))
        sent = [
            Publication(Envelope(f"{queue}-{n}", "step", b"{}"), queue, options=Options(key=f"{key}{n}") if key else None)
            for n in range(20)
        ]
        await sender.publish(sent)
    async with connected(rabbit, postgres) as (broker, kept):
        async with broker.consume([queue], prefetch=20) as consumer:
            held: list[Delivery] = []
            while len(held) < 20:
                held += await consumer.receive(20 - len(held), 5.0)
            verb = "settle" if key else "settle_strays"
            settle = getattr(kept._endings, verb)

            async def dies(*said: Any) -> Any:
                if stored:
                    await settle(*said)
                cut(broker)
                raise BrokerUnavailable("the worker died")

            setattr(kept._endings, verb, dies)
            with pytest.raises(BrokerUnavailable):
                await consumer.settle([Retry(d.tag, 0.3, error="once") for d in held])
    seen: collections.Counter[str] = collections.Counter()
    async with connected(rabbit, postgres) as (broker, _), broker.consume([queue], prefetch=20) as consumer:
        until = time.monotonic() + 120
        while len(seen) < 20:
            assert time.monotonic() < until, f"only {len(seen)} came again"
            deliveries = await consumer.receive(20, 1.0)
            assert await consumer.settle([Ack(d.tag) for d in deliveries]) == []
            seen.update(d.envelope.id for d in deliveries)
    assert set(seen) == {p.envelope.id for p in sent}
    assert not key or set(seen.values()) == {1}, "what the store keeps is there once"


@asynccontextmanager
async def connected(rabbit: Vhost, postgres: Database) -> AsyncGenerator[tuple[RabbitBroker, PostgresBroker]]:
    """Return a broker and what it is beside, closed in the end."""
    kept = PostgresBroker(postgres.url, relay=RELAY)
    broker = RabbitBroker(rabbit.url, kept, settling=0.0)
    try:
        yield broker, kept
    finally:
        await broker.close()
