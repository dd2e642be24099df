"""The PostgreSQL server of the tests and the bench: it must be nobody else's, reach nobody else, and leave nothing behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from ..waiting import until
from .postgres import PostgresNode

pytestmark = [pytest.mark.proof, pytest.mark.skipif(PostgresNode.missing() is not None, reason=str(PostgresNode.missing()))]

ROOT = Path(__file__).parent.parent.parent
FOR_EVER = b"DO $$ BEGIN LOOP END LOOP; END $$"  # a session that never looks whether its server is still there


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresNode]:
    with PostgresNode(tmp_path_factory.mktemp("postgres")) as node:
        yield node


@pytest.fixture
def other(tmp_path: Path) -> Iterator[PostgresNode]:
    with PostgresNode(tmp_path) as other:
        yield other


def asked(node: PostgresNode, query: str) -> list[Any]:
    """Return the first column of what the server answers to a query, in a session of its own."""
    with psycopg.connect(node.url, autocommit=True) as session:
        return [first for first, *_ in session.execute(query.encode())]


def told(node: PostgresNode, *statements: str) -> None:
    """Have statements carried out, each committed before the next."""
    with psycopg.connect(node.url, autocommit=True) as session:
        for statement in statements:
            session.execute(statement.encode())


@contextlib.contextmanager
def busy_session(node: PostgresNode) -> Generator[int]:
    """Return the process of a session that computes for ever."""
    with contextlib.closing(psycopg.connect(node.url, autocommit=True)) as session:
        session.pgconn.send_query(FOR_EVER)
        process = session.info.backend_pid
        until(lambda: asked(node, f"SELECT pid FROM pg_stat_activity WHERE pid = {process} AND state = 'active'"), "the session to be busy")
        yield process


def running(node: PostgresNode) -> set[int]:
    """Return everything that runs on the node's data: what the node knows of, and what has its place there."""
    found = {process.pid for process in node.processes()}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if Path(process.cwd()).is_relative_to(node.folder):
                found.add(process.pid)
    return found


def is_of_root(process: int) -> bool:
    """Tell whether a process runs as root; one that has ended does not."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return 0 in psutil.Process(process).uids()
    return False


@contextlib.contextmanager
def started_elsewhere(folder: Path) -> Generator[None]:
    """Start a node in another process, and kill that one in the end."""
    program = "import pathlib, sys, time; from tests.servers.postgres import PostgresNode; PostgresNode(pathlib.Path(sys.argv[1])).start(); time.sleep(600)"
    starter = subprocess.Popen([sys.executable, "-c", program, str(folder)], cwd=ROOT)
    try:
        yield
    finally:
        starter.kill()
        starter.wait()


def shared_memory(node: PostgresNode) -> int:
    """Return how many processes hold on to the shared memory of the node's data."""
    _key, identifier = (node.data / "postmaster.pid").read_text().splitlines()[6].split()
    rows = [line.split() for line in Path("/proc/sysvipc/shm").read_text().splitlines()[1:]]
    return next((int(row[6]) for row in rows if row[1] == identifier), 0)


def test_a_started_node_answers_the_superuser_chappe_in_the_database_chappe(node: PostgresNode) -> None:
    assert node.url == f"postgresql://chappe@127.0.0.1:{node.port}/chappe"
    assert asked(node, "SELECT current_user || '@' || current_database()") == ["chappe@chappe"]
    assert asked(node, "SHOW is_superuser") == ["on"]
    assert asked(node, "SELECT pg_encoding_to_char(encoding) || ' ' || datcollate FROM pg_database WHERE datname = 'chappe'") == ["UTF8 C"]
    assert asked(node, "SHOW fsync") == ["on"]


def test_a_node_listens_on_loopback_only_and_trusts_nobody_else(node: PostgresNode) -> None:
    assert asked(node, "SHOW listen_addresses") == ["127.0.0.1"]
    assert asked(node, "SHOW unix_socket_directories") == [""]
    assert set(asked(node, "SELECT address FROM pg_hba_file_rules WHERE auth_method <> 'reject'")) == {"127.0.0.1", "::1"}


def test_a_node_keeps_its_data_and_logs_in_its_folder_and_does_not_run_as_root(node: PostgresNode) -> None:
    assert asked(node, "SHOW data_directory") == [str(node.folder / "data")]
    assert asked(node, "SHOW config_file") == [str(node.folder / "postgresql.conf")]
    assert "ready to accept connections" in (node.logs / "console").read_text()
    assert not any(is_of_root(process) for process in running(node))
    assert node.pid in running(node)
    assert node.data.stat().st_uid == psutil.Process(node.pid).uids().real


def test_a_node_takes_the_configuration_it_was_given(tmp_path: Path) -> None:
    with PostgresNode(tmp_path, "max_connections = 7\nwork_mem = '1MB'") as node:
        assert asked(node, "SHOW max_connections") == ["7"]
        assert asked(node, "SHOW work_mem") == ["1MB"]


def test_two_nodes_run_side_by_side_and_know_nothing_of_each_other(node: PostgresNode, other: PostgresNode) -> None:
    told(other, "CREATE TABLE mine (what text)")
    identities = {asked(one, "SELECT system_identifier FROM pg_control_system()")[0] for one in (node, other)}
    assert len(identities) == 2
    assert asked(node, "SELECT count(*) FROM pg_tables WHERE tablename = 'mine'") == [0]
    assert not running(node) & running(other)
    other.kill()
    assert asked(node, "SELECT 1") == [1]
    other.start()
    assert asked(other, "SELECT count(*) FROM mine") == [0]


def test_a_killed_node_answers_no_more_leaves_no_process_and_starts_again_with_what_was_committed(other: PostgresNode) -> None:
    told(other, "CREATE TABLE kept (what text)", "INSERT INTO kept VALUES ('committed')")
    before, url = other.pid, other.url
    with contextlib.closing(psycopg.connect(url)) as open_session, busy_session(other) as busy:
        open_session.execute("INSERT INTO kept VALUES ('not committed')")
        assert {before, open_session.info.backend_pid, busy} < running(other)
        assert shared_memory(other) > 2
        other.kill()
        assert (running(other), shared_memory(other)) == (set(), 0)
        with pytest.raises(psycopg.OperationalError, match="refused"):
            asked(other, "SELECT 1")
        other.start()
        assert (other.url, other.pid != before) == (url, True)
        assert asked(other, "SELECT what FROM kept") == ["committed"]
    assert "automatic recovery in progress" in (other.logs / "console").read_text()


def test_a_stopped_node_ends_its_sessions_leaves_no_process_and_starts_again_without_recovery(other: PostgresNode) -> None:
    told(other, "CREATE TABLE kept (what text)", "INSERT INTO kept VALUES ('committed')")
    with contextlib.closing(psycopg.connect(other.url)) as open_session, busy_session(other):
        open_session.execute("SELECT 1")
        other.stop()
        assert running(other) == set()
        with pytest.raises(psycopg.OperationalError):
            open_session.execute("SELECT 1")
    other.start()
    assert asked(other, "SELECT what FROM kept") == ["committed"]
    assert "automatic recovery in progress" not in (other.logs / "console").read_text()


def test_a_node_whose_postmaster_alone_was_killed_is_cleared_of_the_sessions_it_left(other: PostgresNode) -> None:
    told(other, "CREATE TABLE kept (what text)")
    with busy_session(other) as busy:
        os.kill(other.pid, signal.SIGKILL)
        until(lambda: running(other) <= {busy, other.pid}, "the idle children to leave by themselves")
        assert shared_memory(other) == 1
        other.kill()
        assert (running(other), shared_memory(other)) == (set(), 0)
        other.start()
        assert asked(other, "SELECT count(*) FROM kept") == [0]


def test_a_postmaster_that_ended_and_that_nobody_waited_for_is_not_taken_for_one_that_runs(other: PostgresNode) -> None:
    told(other, "CREATE TABLE kept (what text)")
    os.kill(other.pid, signal.SIGKILL)
    until(lambda: not running(other), "the node to be gone")
    assert psutil.Process(other.pid).status() == psutil.STATUS_ZOMBIE
    with PostgresNode(other.folder) as heir:
        assert asked(heir, "SELECT count(*) FROM kept") == [0]


def test_a_node_that_cannot_start_says_what_the_server_said_and_leaves_no_process(tmp_path: Path) -> None:
    node = PostgresNode(tmp_path, "no_such_setting = 1")
    with pytest.raises(RuntimeError, match="no_such_setting"):
        node.start()
    assert running(node) == set()


def test_a_node_does_not_outlive_the_process_that_started_it_but_its_data_do(tmp_path: Path) -> None:
    node = PostgresNode(tmp_path)  # only to look into the folder
    with started_elsewhere(tmp_path):
        until(lambda: "ready to accept" in (node.logs / "console").read_text(), "the node to run", 60)
        assert running(node)
    until(lambda: not running(node), "the node to be gone")
    with node:
        assert asked(node, "SELECT 1") == [1]


def test_a_node_whose_first_start_was_cut_off_makes_its_data_afresh(tmp_path: Path) -> None:
    node = PostgresNode(tmp_path)
    with started_elsewhere(tmp_path):
        until(lambda: (tmp_path / "fresh" / "PG_VERSION").exists(), "the data to be half made", 60)
    until(lambda: not running(node), "the makers to be gone")
    assert not node.data.exists()
    with node:
        assert asked(node, "SELECT 1") == [1]
    assert not (tmp_path / "fresh").exists()
