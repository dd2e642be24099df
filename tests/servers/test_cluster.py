"""The RabbitMQ cluster of the tests: what a majority confirmed outlives a node, a minority confirms nothing, and nothing is left behind."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from uuid import uuid4

import psutil
import pytest
from pika import BlockingConnection, URLParameters
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import AMQPError

from ..waiting import until
from .cluster import SIZE, RabbitCluster

MISSING = RabbitCluster.missing()
pytestmark = [pytest.mark.proof, pytest.mark.skipif(MISSING is not None, reason=str(MISSING))]

PARTITIONS = bool(os.environ.get("CHAPPE_TEST_PARTITIONS"))
needs_quiet = pytest.mark.skipif(
    not PARTITIONS, reason="a busy machine looks like a broken network: CHAPPE_TEST_PARTITIONS=1 runs it, as does make test-rabbitmq4"
)
ROOT = Path(__file__).parent.parent.parent
MINUTE = 60.0


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitCluster]:
    """With partitions to be noticed soon, or else with RabbitMQ's own patience."""
    with RabbitCluster(tmp_path_factory.mktemp("cluster"), ticks=4 if PARTITIONS else 60) as cluster:
        yield cluster


@contextlib.contextmanager
def channel(cluster: RabbitCluster, n: int) -> Generator[BlockingChannel]:
    """Speak to one node; what is published is confirmed, or raises."""
    connection = BlockingConnection(URLParameters(cluster.nodes[n].url))
    try:
        opened = connection.channel()
        opened.confirm_delivery()
        yield opened
    finally:
        with contextlib.suppress(AMQPError):
            connection.close()


@pytest.fixture
def queue(cluster: RabbitCluster) -> str:
    """A fresh quorum queue."""
    name = f"q-{uuid4().hex}"
    with channel(cluster, 0) as client:
        client.queue_declare(name, durable=True, arguments={"x-queue-type": "quorum"})
    return name


def taken(cluster: RabbitCluster, n: int, queue: str, last: bytes) -> list[bytes]:
    """Take messages through one node, up to one that must be there."""
    came: list[bytes] = []

    def look() -> bool:
        _, _, body = client.basic_get(queue, auto_ack=True)
        came.extend([] if body is None else [body])
        return last in came

    with channel(cluster, n) as client:
        until(look, f"{last} to come, not only {came}", MINUTE)
    return came


def processes(folder: Path) -> list[str]:
    """Name everything that runs in the folders of a cluster's nodes."""
    found: list[str] = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if Path(process.cwd()).is_relative_to(folder):
                found.append(process.name())
    return found


def test_each_node_takes_clients_at_its_address_and_all_are_one_cluster(cluster: RabbitCluster, queue: str) -> None:
    addresses = [node.url.partition("@")[2].rstrip("/") for node in cluster.nodes]
    assert cluster.url == f"amqp://guest:guest@{','.join(addresses)}/"
    assert len(set(addresses)) == SIZE
    for n in range(SIZE):
        with channel(cluster, n) as client:
            client.basic_publish("", queue, f"by {n}".encode())
    assert taken(cluster, 0, queue, b"by 2") == [b"by 0", b"by 1", b"by 2"]


def test_a_message_that_was_confirmed_survives_the_death_of_the_node_that_leads_its_queue(cluster: RabbitCluster, queue: str) -> None:
    leader = cluster.leader(queue)
    with channel(cluster, leader) as client:
        client.basic_publish("", queue, b"confirmed")
    cluster.kill(leader)
    assert not cluster.answers(leader)
    heir = cluster.leader(queue)
    assert heir != leader
    assert taken(cluster, heir, queue, b"confirmed") == [b"confirmed"]
    cluster.restart(leader)
    cluster.wait_for(SIZE)
    with channel(cluster, leader) as client:
        client.basic_publish("", queue, b"by whom was dead")
    assert taken(cluster, heir, queue, b"by whom was dead") == [b"by whom was dead"]


@needs_quiet
def test_a_minority_that_is_cut_off_confirms_nothing_pauses_and_comes_back_when_healed(cluster: RabbitCluster, queue: str) -> None:
    minority = cluster.leader(queue)
    with channel(cluster, minority) as client:
        cluster.partition([minority])
        with pytest.raises(AMQPError):
            client.basic_publish("", queue, b"never confirmed")
    until(lambda: cluster.paused(minority), "the minority to pause", MINUTE)
    majority = cluster.leader(queue)
    with channel(cluster, majority) as client:
        client.basic_publish("", queue, b"confirmed by two")
    cluster.heal()
    until(lambda: cluster.answers(minority), "the minority to come back", MINUTE)
    cluster.wait_for(SIZE)
    # What was not confirmed may have come too: its fate is unknown.
    assert taken(cluster, minority, queue, b"confirmed by two").count(b"confirmed by two") == 1


@needs_quiet
def test_a_frozen_node_answers_nobody_until_it_is_thawed(cluster: RabbitCluster) -> None:
    cluster.freeze(2)
    assert not cluster.answers(2)
    assert cluster.answers(0)
    cluster.thaw(2)
    until(lambda: cluster.answers(2), "the node to answer")


def test_a_cluster_does_not_outlive_the_process_that_started_it(tmp_path: Path) -> None:
    program = (
        "import pathlib, sys; from tests.servers.cluster import RabbitCluster; "
        "cluster = RabbitCluster(pathlib.Path(sys.argv[1])); print(cluster.network.device, flush=True); cluster.start()"
    )
    starter = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert starter.stdout is not None
        device = starter.stdout.readline().strip()
        until(lambda: processes(tmp_path).count("beam.smp") == SIZE, "the nodes to run", MINUTE)
        assert device in psutil.net_if_addrs()
    finally:
        starter.kill()
        with starter:
            pass
    until(lambda: not processes(tmp_path), "the nodes to be gone")
    until(lambda: device not in psutil.net_if_addrs(), "the network to be gone")
