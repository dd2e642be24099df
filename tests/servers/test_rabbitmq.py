"""The RabbitMQ node of the tests and the bench: it must be nobody else's, reach nobody else, and leave nothing behind."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from ..waiting import until
from .rabbitmq import RabbitNode

pytestmark = [pytest.mark.proof, pytest.mark.skipif(RabbitNode.missing() is not None, reason=str(RabbitNode.missing()))]

ROOT = Path(__file__).parent.parent.parent
SAY_HELLO = b"AMQP\x00\x00\x09\x01"


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitNode]:
    with RabbitNode(tmp_path_factory.mktemp("rabbit")) as node:
        yield node


def greeting(node: RabbitNode) -> bytes:
    with socket.create_connection(("127.0.0.1", node.port), timeout=10) as connected:
        connected.sendall(SAY_HELLO)
        return connected.recv(4096)


def processes(node: RabbitNode) -> list[psutil.Process]:
    """Return everything that runs in the node's folder."""
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.cwd() == str(node.folder):
                found.append(process)
    return found


def names(node: RabbitNode) -> set[str]:
    found: set[str] = set()
    for process in processes(node):
        with contextlib.suppress(psutil.NoSuchProcess):
            found.add(process.name())
    return found


def test_a_started_node_greets_clients_as_an_amqp_server(node: RabbitNode) -> None:
    assert b"RabbitMQ" in greeting(node)
    assert node.url == f"amqp://guest:guest@127.0.0.1:{node.port}/"


def test_a_node_listens_on_loopback_only(node: RabbitNode) -> None:
    listening: set[str] = set()
    for process in processes(node):
        with contextlib.suppress(psutil.NoSuchProcess):
            listening |= {connection.laddr.ip for connection in process.net_connections("inet") if connection.status == psutil.CONN_LISTEN}
    assert listening - {"::1"} == {"127.0.0.1"}


def test_a_node_keeps_its_data_cookie_and_logs_in_its_folder(node: RabbitNode) -> None:
    assert (node.folder / ".erlang.cookie").stat().st_mode & 0o777 == 0o400
    assert any((node.folder / "data").glob("chappe-*@localhost"))
    until(lambda: any("Server startup complete" in log.read_text() for log in node.logs.glob("*.log")), "the log to be written")


def test_two_nodes_run_side_by_side_and_are_not_one_cluster(node: RabbitNode, tmp_path: Path) -> None:
    with RabbitNode(tmp_path) as other:
        assert b"RabbitMQ" in greeting(node)
        assert b"RabbitMQ" in greeting(other)
        cookies = [(one.folder / ".erlang.cookie").read_text() for one in (node, other)]
        assert cookies[0] != cookies[1]
    assert b"RabbitMQ" in greeting(node)


def test_a_killed_node_answers_no_more_leaves_no_process_and_starts_again_with_its_data(tmp_path: Path) -> None:
    node = RabbitNode(tmp_path)
    node.start()
    try:
        before, url = node.pid, node.url
        node.kill()
        assert processes(node) == []
        with pytest.raises(ConnectionRefusedError):
            greeting(node)
        node.start()
        assert (node.url, node.pid != before) == (url, True)
        assert b"RabbitMQ" in greeting(node)
    finally:
        node.stop()
    assert processes(node) == []
    (serial,) = (node.folder / "data").glob("chappe-*@localhost/rabbit_serial")
    assert serial.read_text().startswith("2")  # RabbitMQ counts there how often these data were started with


def test_a_node_that_cannot_start_says_what_the_server_said_and_leaves_no_process(tmp_path: Path) -> None:
    node = RabbitNode(tmp_path, "no_such_setting = 1")
    with pytest.raises(RuntimeError, match="no_such_setting"):
        node.start()
    assert processes(node) == []


def test_a_node_does_not_outlive_the_process_that_started_it(tmp_path: Path) -> None:
    program = "import pathlib, sys, time; from tests.servers.rabbitmq import RabbitNode; RabbitNode(pathlib.Path(sys.argv[1])).start(); time.sleep(600)"
    node = RabbitNode(tmp_path)  # only to look into the folder
    starter = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], cwd=ROOT)
    try:
        until(lambda: {"epmd", "beam.smp"} <= names(node), "the node to run", 60)
    finally:
        starter.kill()
        starter.wait()
    until(lambda: not processes(node), "the node to be gone")
