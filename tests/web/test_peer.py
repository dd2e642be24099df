"""Which user is behind a connection, asked of the real kernel."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from chappe.web import peer
from chappe.web.peer import user_behind

STRANGER = 65534
CONNECTED = """
import encodings.idna, os, socket, sys  # what is imported later could not be read by another user
os.setuid(65534)
kept = socket.create_connection((sys.argv[1], int(sys.argv[2])))
print("connected", flush=True)
sys.stdin.read()
"""
FAMILIES = pytest.mark.parametrize(
    ("bound", "called", "dual"),
    [("127.0.0.1", "127.0.0.1", False), ("::1", "::1", False), ("::", "127.0.0.1", True), ("127.0.0.1", "::ffff:127.0.0.1", False), ("127.0.0.1", "127.0.0.2", False)],
    ids=["v4", "v6", "v4 to v6", "mapped to v4", "another loopback address"],
)  # fmt: skip


def by_netlink(client: object, server: object) -> int | None:
    return peer._by_netlink(*peer._ends(client, server))


def by_table(client: object, server: object) -> int | None:
    return peer._by_table(*peer._ends(client, server))


WAYS = pytest.mark.parametrize("way", [user_behind, by_netlink, by_table])


@contextmanager
def listening(bound: str, dual: bool) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in bound else socket.AF_INET
    with socket.create_server((bound, 0), family=family, dualstack_ipv6=dual) as server:
        server.settimeout(30)
        yield server


@contextmanager
def met(server: socket.socket, called: str) -> Iterator[tuple[socket.socket, socket.socket]]:
    with socket.socket(socket.AF_INET6 if ":" in called else socket.AF_INET) as client:
        if called == "127.0.0.2":  # what may be bound here is the client's end too
            client.bind((called, 0))
            called = "127.0.0.1"
        client.connect((called, server.getsockname()[1]))
        accepted, _ = server.accept()
        with accepted:
            yield client, accepted


@WAYS
@FAMILIES
def test_the_user_of_a_connection_is_found(way: object, bound: str, called: str, dual: bool) -> None:
    assert callable(way)
    with listening(bound, dual) as server, met(server, called) as (client, accepted):
        ends = accepted.getpeername(), accepted.getsockname()
        assert way(*ends) == os.getuid()
        client.shutdown(socket.SHUT_WR)
        assert way(*ends) == os.getuid(), "it said all that it wants, and still listens"


@WAYS
def test_a_socket_that_was_closed_is_not_taken_for_roots(way: object) -> None:
    assert callable(way)
    with listening("127.0.0.1", False) as server, met(server, "127.0.0.1") as (client, accepted):
        ends = accepted.getpeername(), accepted.getsockname()
        client.close()
        assert _tried(way, *ends) is None
        accepted.close()
        assert _tried(way, *ends) is None


def _tried(way: object, *ends: object) -> object:
    assert callable(way)
    try:
        return way(*ends)
    except OSError:  # the kernel knows of none
        return None


@WAYS
def test_who_listens_at_the_same_port_is_not_taken_for_who_called(way: object) -> None:
    with listening("127.0.0.1", False) as server:
        port = server.getsockname()[1]
        assert _tried(way, ("127.0.0.1", port), ("127.0.0.1", 9)) is None


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be another user")
@FAMILIES
def test_another_user_is_told_from_this_one(bound: str, called: str, dual: bool) -> None:
    with listening(bound, dual) as server:
        command = [sys.executable, "-c", CONNECTED, "127.0.0.1" if called == "127.0.0.2" else called, str(server.getsockname()[1])]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE):
            accepted, _ = server.accept()
            with accepted:
                ends = accepted.getpeername(), accepted.getsockname()
                assert user_behind(*ends) == by_table(*ends) == STRANGER


@pytest.mark.parametrize("ends", [(None, None), ("", ""), (("a", 1), ("b", 2)), (("127.0.0.1",), ()), (b"x", 5)])
def test_what_is_no_connection_has_no_user(ends: tuple[object, object]) -> None:
    assert user_behind(*ends) is None


def test_without_netlink_the_table_is_read_and_without_both_nobody_is_believed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refused(*_: object) -> None:
        raise PermissionError

    with listening("127.0.0.1", False) as server, met(server, "127.0.0.1") as (_, accepted):
        ends = accepted.getpeername(), accepted.getsockname()
        monkeypatch.setattr(peer, "_by_netlink", refused)
        assert user_behind(*ends) == os.getuid()
        assert peer._by_table(*peer._ends(*ends), tmp_path) is None
        monkeypatch.setattr(sys, "platform", "darwin")
        assert user_behind(*ends) is None
