"""Hard limits: the end of a worker whose handler ignores its time."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from chappe.engines.contract.broker import Dead, Retry
from chappe.engines.file.running_tables import read_table
from chappe.worker import heartbeat
from chappe.worker.heartbeat import HardLimits
from chappe.worker.running_table import RunningTable


@pytest.fixture
def table(tmp_path: Path) -> Iterator[RunningTable]:
    table = RunningTable(tmp_path, 1)
    yield table
    table.close()


def test_a_message_over_its_limit_ends_the_process(table: RunningTable) -> None:
    ended = threading.Event()
    limits = HardLimits(table, end=ended.set)
    limits.begin(Retry(1, 0.0), 0.2, "push 1")
    assert ended.wait(60)


def test_a_message_that_ended_in_time_ends_nothing(table: RunningTable, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(heartbeat, "steady", lambda: now)
    ended = threading.Event()
    limits = HardLimits(table, end=ended.set)
    limits.begin(Retry(1, 0.0), 10.0, "push 1")
    limits.begin(Retry(2, 0.0), 60.0, "push 2")
    limits.end(1)
    limits.end(1)
    now = 20.0
    assert not ended.wait(0.5)
    now = 61.0
    assert ended.wait(60), "the other one went on being watched"


@pytest.mark.parametrize(("beyond", "is_last", "after"), [(Retry(7, 4.0), False, 4.0), (Dead(7, "failed"), True, 0.0)])
def test_a_log_record_that_cannot_be_made_keeps_no_process_alive(
    table: RunningTable, monkeypatch: pytest.MonkeyPatch, beyond: Retry | Dead, is_last: bool, after: float
) -> None:
    monkeypatch.setattr(heartbeat.log, "critical", lambda *_: 1 / 0)
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    ended = threading.Event()
    table.begin(0, 7)
    HardLimits(table, end=ended.set).begin(beyond, 0.0, "push 1")
    assert ended.wait(60)
    account = read_table(table.path)
    assert account is not None and account.begun == {7}
    assert (account.death.deliveries, account.death.is_last, account.death.after) == ((7,), is_last, after)
