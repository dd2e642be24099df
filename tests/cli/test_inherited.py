"""What an import left open that forked processes would share."""

import asyncio
import os
import socket
import sqlite3
import threading
from pathlib import Path

from chappe.cli.inherited import opened, unshareable


def handles(before: dict[int, str]) -> list[str]:
    return [name for name in unshareable(before) if not name.startswith("thread ")]  # those of other tests


def test_sockets_databases_and_files_that_are_read_or_written_are_named(tmp_path: Path) -> None:
    before = opened()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        one, other = socket.socketpair()
        with socket.create_connection(("127.0.0.1", port)), (tmp_path / "data").open("w"), one, other:
            database = sqlite3.connect(tmp_path / "db")
            loop = asyncio.new_event_loop()
            kept = handles(before)
            database.close()
            loop.close()
    assert kept.count(f"socket 127.0.0.1:{port}") == 2
    assert {str(tmp_path / "data"), str(tmp_path / "db"), "anon_inode:[eventpoll]", "socket without a name"} <= set(kept)
    assert handles(before) == []


def test_a_thread_is_named() -> None:
    before, end = opened(), threading.Event()
    thread = threading.Thread(target=end.wait, name="poller")
    thread.start()
    assert "thread poller" in unshareable(before)
    end.set()
    thread.join()


def test_logs_devices_folders_and_what_was_open_before_are_not(tmp_path: Path) -> None:
    with (tmp_path / "early").open("w"):
        before = opened()
        memory = os.memfd_create("shared")
        with (tmp_path / "log").open("a"), Path("/dev/null").open("w"), Path("/dev/urandom").open("rb"), os.fdopen(memory):
            assert handles(before) == []
