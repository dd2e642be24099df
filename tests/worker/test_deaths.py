"""Deaths of workers are told to a broker that cannot see them itself: each, as soon as it is seen, by one process of a host."""

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from chappe.engines.contract.broker import Broker, Death
from chappe.engines.file.running_tables import BLOCKED, HEADER, KILL_AFTER, SLOT, folder_of
from chappe.errors import BrokerUnavailable
from chappe.worker.deaths import tell_deaths, telling_deaths


class Judge:
    """A broker that only hears of deaths."""

    def __init__(self) -> None:
        self.heard: list[Death] = []
        self.away = False
        self.hears = asyncio.Event()

    async def blame(self, death: Death) -> None:
        if self.away:
            raise BrokerUnavailable("away")
        self.heard.append(death)
        self.hears.set()


@pytest.fixture
def judge() -> Judge:
    return Judge()


def as_broker(judge: Judge) -> Broker:
    return cast("Broker", cast("Any", judge))


@pytest.fixture
def bury(tmp_path: Path) -> Callable[..., Path]:
    """Leave the table of a dead worker: what each slot had begun, and whether it executed."""
    folder = folder_of(tmp_path / "shop")
    folder.mkdir()

    def left(name: str, *slots: tuple[int, bool], blame: tuple[int, int, bool, float, float] = (0, 0, False, 0.0, 0.0)) -> Path:
        table = folder / f"{name}-0123abcd.running"
        table.write_bytes(HEADER.pack(1.0, *blame) + b"".join(SLOT.pack(tag, executes, 0) for tag, executes in slots))
        return table

    return left


async def test_what_executed_is_told_once_and_the_table_goes(tmp_path: Path, judge: Judge, bury: Callable[..., Path]) -> None:
    table = bury("1", (7, True), (8, False))
    for _ in range(2):
        await tell_deaths(as_broker(judge), tmp_path / "shop")
    assert judge.heard == [Death(table.name, (7,))]
    assert not table.exists()


async def test_where_nothing_executed_all_may_be_to_blame_and_it_is_said(tmp_path: Path, judge: Judge, bury: Callable[..., Path]) -> None:
    table = bury("1", (7, False), (8, False))
    await tell_deaths(as_broker(judge), tmp_path / "shop")
    assert judge.heard == [Death(table.name, (7, 8), is_sure=False)]


async def test_a_worker_that_ran_nothing_is_not_told(tmp_path: Path, judge: Judge, bury: Callable[..., Path]) -> None:
    table = bury("1", (0, False))
    await tell_deaths(as_broker(judge), tmp_path / "shop")
    assert (judge.heard, table.exists()) == ([], False)


async def test_what_a_worker_ended_itself_for_is_told_with_its_limit(tmp_path: Path, judge: Judge, bury: Callable[..., Path]) -> None:
    bury("1", (7, True), (8, True), blame=(7, KILL_AFTER, True, 2.0, 0.0))
    bury("2", (9, True), blame=(9, BLOCKED, False, 30.0, 0.0))
    await tell_deaths(as_broker(judge), tmp_path / "shop")
    killed, blocked = sorted(judge.heard, key=lambda death: death.worker)
    assert (killed.deliveries, killed.is_last, killed.after) == ((7,), True, 0.0) and "kill_after of 2 s" in killed.error
    assert (blocked.deliveries, blocked.after) == ((9,), None) and "the event loop for 30 s" in blocked.error


async def test_what_a_broker_that_is_away_did_not_hear_is_told_when_it_is_back(
    tmp_path: Path, judge: Judge, bury: Callable[..., Path]
) -> None:
    async with telling_deaths(as_broker(judge), tmp_path / "shop"):
        judge.away = True
        table = bury("1", (7, True))
        with pytest.raises(BrokerUnavailable):
            await tell_deaths(as_broker(judge), tmp_path / "shop")
        assert table.exists()
        judge.away = False
        await asyncio.wait_for(judge.hears.wait(), 30)
    assert judge.heard == [Death(table.name, (7,))]


async def test_one_process_of_a_host_tells_and_another_goes_on_when_it_ends(
    tmp_path: Path, judge: Judge, bury: Callable[..., Path]
) -> None:
    lock = folder_of(tmp_path / "shop") / "deaths.lock"
    table = bury("1", (7, True))
    holds = (
        "import fcntl, os, sys; f = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o600); fcntl.lockf(f, fcntl.LOCK_EX);"
        "print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", holds, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdin is not None and other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        async with telling_deaths(as_broker(judge), tmp_path / "shop"):
            assert judge.heard == [] and table.exists()
            os.kill(other.pid, 9)
            with contextlib.suppress(BrokenPipeError):
                other.stdin.close()
            await asyncio.wait_for(judge.hears.wait(), 30)
    assert judge.heard == [Death(table.name, (7,))]
