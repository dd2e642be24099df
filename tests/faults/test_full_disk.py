"""A full disk: what is new is refused with the reason, what is stored goes on to its end, and room is found again by itself."""

from __future__ import annotations

import json
import os
import signal
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from ..processes.conftest import Mill
from ..waiting import until
from .disks.senders import Senders, sending
from .disks.small import Disk, needs_root

MEBIBYTE = 1024 * 1024

pytestmark = needs_root


@pytest.fixture
def mill(tmp_path: Path) -> Iterator[Mill]:
    """`chappe run` whose database is on a disk of 24 MiB."""
    disk = Disk(tmp_path / "disk", 24 * MEBIBYTE)
    mill = Mill(tmp_path)
    mill.environment["CHAPPE_BROKER"] = f"sqlite:///{disk.path}/chappe.db"
    mill.configure("[pools.mill]\nprocesses = 1\nconcurrency = 4\n")
    mill.disk = disk  # type: ignore[attr-defined]
    yield mill
    mill.close()
    disk.close()


class Answer(NamedTuple):
    """What the gateway answered."""

    status: int
    retry_after: str | None
    body: dict[str, Any]


def post(address: str, name: str) -> Answer:
    return ask(address + "/commands/work", json.dumps({"name": name}).encode())


def ask(address: str, data: bytes | None = None) -> Answer:
    request = urllib.request.Request(address, data, {"Content-Type": "application/json"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=60) as response:
            return Answer(response.status, None, json.loads(response.read()))
    except urllib.error.HTTPError as error:
        with error:
            return Answer(error.code, error.headers["Retry-After"], json.loads(error.read()))


def status_path(mill: Mill) -> Path:
    return Path(f"{mill.disk.path}/chappe.db.processes")  # type: ignore[attr-defined]


def starts(mill: Mill) -> dict[str, str]:
    return {line.split("\t")[0]: line.split("\t")[2] for line in status_path(mill).read_text().splitlines()}


def reserve(mill: Mill) -> int:
    """Return the bytes that the reserve really takes."""
    path = Path(f"{mill.disk.path}/chappe.db.reserve")  # type: ignore[attr-defined]
    return path.stat().st_blocks * 512 if path.exists() else 0


def test_on_a_full_disk_what_waits_is_handled_what_is_new_is_refused_and_it_recovers_by_itself(mill: Mill) -> None:
    disk: Disk = mill.disk  # type: ignore[attr-defined]
    mill.run("--no-scheduler")
    before = starts(mill)
    laid = reserve(mill)
    assert laid >= MEBIBYTE
    mill.send(*(f"Work(name='w{n}', seconds=200)" for n in range(60)))
    until(lambda: len(mill.names("start")) == 4)
    disk.fill()
    address = mill.address()
    stored: list[str] = []

    def refused() -> Answer | None:
        answer = post(address, f"n{len(stored)}")
        if answer.status == 202:
            stored.append(f"n{len(stored)}")
        return answer if answer.status != 202 else None

    answer = until(refused, "a request to be refused")
    assert (answer.status, answer.retry_after is not None) == (503, True)
    assert answer.body["title"] == "There is no room to store the message"
    assert "free some space" in answer.body["detail"]
    ready = ask(address + "/readyz")
    assert ready.status == 503 and "disk" in ready.body["detail"]
    assert ask(address + "/livez").status == 200
    done = mill.chappe("send", "work", "name=late", code=75)
    assert "no room to store" in done.stderr

    mill.release()
    until(lambda: len(mill.names("end")) == 60 + len(stored), "everything stored to be handled on the full disk")
    until(lambda: all(queue["ready"] == queue["running"] == 0 for queue in ask(address + "/api/queues").body["queues"]))
    assert sorted(mill.names("end")) == sorted([f"w{n}" for n in range(60)] + stored)
    assert sorted(mill.names("start")) == sorted(mill.names("end")), "each ran once"
    assert post(address, "still").status == 503

    assert "there is room again" not in mill.errors(), "what the reserve gave up is no room for what is new"
    disk.free()
    until(lambda: post(address, "again").status == 202, "a request to be taken again")
    assert ask(address + "/readyz").status == 200
    until(lambda: reserve(mill) >= MEBIBYTE, "the reserve to be laid again")
    until(lambda: "again" in mill.names("end"))
    assert starts(mill) == before, "nothing was restarted"
    mill.end()


@pytest.mark.proof
def test_acks_go_on_when_somebody_takes_every_byte_that_becomes_free(mill: Mill) -> None:
    disk: Disk = mill.disk  # type: ignore[attr-defined]
    mill.run("--no-gateway", "--no-scheduler")
    mill.send(*(f"Work(name='w{n}', seconds=200)" for n in range(60)))
    until(lambda: len(mill.names("start")) == 4)
    ended = threading.Event()

    def take() -> None:
        while not ended.wait(0.001):
            disk.fill()

    taker = threading.Thread(target=take)
    taker.start()
    try:
        with sending(mill, "late") as senders:
            until(lambda: senders.told("StorageFull"), "a message to be refused")
            senders.stop()
        mill.release()
        until(lambda: set(mill.names("end")) >= {f"w{n}" for n in range(60)}, "what waits to be handled")
        until(lambda: mill.queues()["work"]["ready"] == mill.queues()["work"]["running"] == 0, "the acknowledgements to be stored")
    finally:
        ended.set()
        taker.join()
    mill.end()


def fill_until_refused(mill: Mill) -> None:
    """Fill the disk, and send until the engine notices."""
    mill.disk.fill()  # type: ignore[attr-defined]
    with sending(mill, "x") as senders:
        until(lambda: senders.told("StorageFull"), "a message to be refused")
        senders.stop()


def fill_until_all_are_refused(disk: Disk, senders: Senders) -> None:
    """Fill the disk again and again, until senders have met it several times."""
    refusals = len(senders.told("StorageFull"))

    def refused() -> bool:
        disk.fill()
        return len(senders.told("StorageFull")) > refusals + 4

    until(refused, "senders to be refused")


def each_runs_once(mill: Mill, stored: list[str]) -> None:
    """Expect that what was stored is handled, and nothing twice."""
    until(lambda: len(mill.names("end")) >= len(stored), "everything stored to be handled")
    until(lambda: mill.queues()["work"]["ready"] == mill.queues()["work"]["running"] == 0)
    assert sorted(mill.names("end")) == sorted(stored)
    assert len(mill.names("start")) == len(stored)


@pytest.mark.proof
def test_on_a_full_disk_an_operator_can_look(mill: Mill) -> None:
    mill.run("--no-gateway", "--no-scheduler")
    fill_until_refused(mill)
    assert mill.queues()["work"]["dead"] == 0
    assert mill.letters() == []


@pytest.mark.proof
def test_on_a_full_disk_a_killed_worker_is_replaced_and_goes_on(mill: Mill) -> None:
    mill.run("--no-gateway", "--no-scheduler")
    mill.send(*(f"Work(name='w{n}', seconds=200)" for n in range(12)))
    until(lambda: len(mill.names("start")) == 4)
    fill_until_refused(mill)
    mill.release()
    os.kill(mill.lines("start")[0].pid, signal.SIGKILL)
    until(lambda: set(mill.names("end")) >= {f"w{n}" for n in range(12)}, "everything stored to be handled by another worker")


@pytest.mark.proof
def test_on_a_full_disk_a_killed_engine_comes_back_and_what_waits_is_handled(mill: Mill) -> None:
    mill.run("--no-gateway", "--no-scheduler")
    mill.send(*(f"Work(name='w{n}', seconds=200)" for n in range(12)))
    until(lambda: len(mill.names("start")) == 4)
    fill_until_refused(mill)
    (engine,) = [
        process for process in mill.processes() if "chappe engine" in process.name() or "chappe engine" in " ".join(process.cmdline())
    ]
    engine.kill()
    mill.release()
    until(lambda: set(mill.names("end")) >= {f"w{n}" for n in range(12)}, "everything stored to be handled")
    mill.disk.free()  # type: ignore[attr-defined]
    until(lambda: all(queue["ready"] == queue["running"] == 0 for queue in mill.queues().values()), "the acknowledgements to be stored")
    assert mill.errors().count("started engine") == 2
    mill.end()


@pytest.mark.proof
def test_ten_times_full_and_freed_nothing_is_lost_and_nothing_runs_twice(mill: Mill) -> None:
    disk: Disk = mill.disk  # type: ignore[attr-defined]
    mill.run("--no-gateway", "--no-scheduler")
    before = starts(mill)
    mill.release()
    with sending(mill, "a", "b", seconds=60) as senders:
        until(lambda: Path(f"{disk.path}/chappe.db-wal").stat().st_size > 15 * MEBIBYTE, "a log as long as it becomes", 60)
        for _ in range(10):
            successes = len(senders.told("stored"))
            until(lambda: len(senders.told("stored")) > successes, "senders to be heard")  # noqa: B023 - called at once
            mill.hold()  # as much done as sent needs no new room once the log is as long as it becomes
            fill_until_all_are_refused(disk, senders)
            mill.release()
            successes = len(senders.told("stored"))
            disk.free()
            until(lambda: len(senders.told("stored")) > successes, "room to be found again")  # noqa: B023
        senders.stop()
        assert senders.outcomes() == {"stored", "StorageFull"}, "a full disk is never an unknown outcome"
        stored = senders.told("stored")
    each_runs_once(mill, stored)
    assert starts(mill) == before, "nothing was restarted"
    mill.end()


@pytest.mark.proof
def test_a_little_room_is_enough_when_the_log_took_the_rest(mill: Mill) -> None:
    disk: Disk = mill.disk  # type: ignore[attr-defined]
    log = Path(f"{disk.path}/chappe.db-wal")
    mill.run("--no-gateway", "--no-scheduler")
    with sending(mill, "a", "b", seconds=60) as senders:
        until(lambda: log.stat().st_size > 14 * MEBIBYTE, "a long log")
        fill_until_all_are_refused(disk, senders)
        successes = len(senders.told("stored"))
        disk.give_back(3 * MEBIBYTE)
        until(lambda: len(senders.told("stored")) > successes, "the room of the log to be found")
        assert log.stat().st_size < 4 * MEBIBYTE
        assert reserve(mill) >= MEBIBYTE
        senders.stop()
        stored = senders.told("stored")
    mill.release()
    each_runs_once(mill, stored)
    mill.end()
