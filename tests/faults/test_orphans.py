"""What is left of a killed supervisor goes away and leaves the file and the port to the next."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes.conftest import Mill
from tests.servers.ports import free_ports
from tests.waiting import until

AT_ONCE = 60.0


@pytest.fixture
def mill(tmp_path: Path) -> Iterator[Mill]:
    mill = Mill(tmp_path)
    yield mill
    mill.close()


def test_an_engine_that_waits_for_the_file_ends_when_it_is_told_to(mill: Mill) -> None:
    mill.start("engine")
    until(lambda: (mill.folder / "chappe.db.sock").exists())
    waits = mill.start("engine")
    until(lambda: "waiting for the file" in mill.errors())
    for count in range(1, 4):  # it looks for the file many times a second: it must hear a signal at any of them
        time.sleep(0.13)
        waits.send_signal(signal.SIGTERM)
        assert waits.wait(AT_ONCE) == 0
        waits = mill.start("engine")
        until(lambda: mill.errors().count("waiting for the file") > count)  # noqa: B023 - called at once


def test_a_gateway_that_waits_for_the_engine_ends_when_it_is_told_to(mill: Mill) -> None:
    gateway = mill.start("gateway")
    until(lambda: "gateway listens on" in mill.errors())
    gateway.send_signal(signal.SIGTERM)
    assert gateway.wait(AT_ONCE) == 0


@pytest.mark.proof
def test_the_third_supervisor_is_ready_although_two_were_killed_before_it(mill: Mill) -> None:
    mill.environment["CHAPPE_PORT"] = str(*free_ports(1))
    mill.configure("[pools.mill]\nprocesses = 1\nconcurrency = 2\n")
    mill.run()
    for _ in range(2):
        assert mill.process is not None
        pids = [row.pid for row in mill.rows().values()]
        mill.process.kill()
        mill.process.wait()
        mill.process = mill.start("run")
        until(lambda: set(row.pid for row in mill.rows().values()) - set(pids), "the next supervisor to start its engine")  # noqa: B023
    ready = mill.ready()
    until(lambda: mill.ready() > ready, "the third to be ready")
    assert mill.process.poll() is None
    with_port = re.findall(r"gateway listens on http://127.0.0.1:(\d+)", mill.errors())
    assert set(with_port) == {mill.environment["CHAPPE_PORT"]}
    mill.send("Work(name='a')")
    until(lambda: mill.names("end") == ["a"])
    pids = {row.pid for row in mill.rows().values()}
    until(lambda: {process.pid for process in mill.processes()} - {os.getpid()} == pids, "nothing but the third's processes to be left")
    mill.end()


@pytest.mark.proof
def test_a_frozen_gateway_of_a_killed_supervisor_keeps_the_next_from_running_for_a_moment_only(mill: Mill) -> None:
    mill.environment["CHAPPE_PORT"] = str(*free_ports(1))
    mill.run()
    assert mill.process is not None
    gateway = mill.rows()["gateway"].pid
    os.kill(gateway, signal.SIGSTOP)
    mill.process.kill()
    mill.process.wait()
    mill.process = mill.start("run")
    until(lambda: "waiting for port" in mill.errors(), "the next gateway to find the port taken")
    os.kill(gateway, signal.SIGCONT)
    until(lambda: mill.ready() == 2, "the next supervisor to be ready")
    assert mill.process.poll() is None
