"""Hard limits: the end of a worker whose handler ignores its time."""

import threading

import pytest

from chappe.worker import hardlimits
from chappe.worker.hardlimits import HardLimits


def test_a_message_over_its_limit_ends_the_process() -> None:
    ended = threading.Event()
    limits = HardLimits(end=ended.set)
    limits.begin(1, 0.2, "push 1")
    assert ended.wait(60)


def test_a_message_that_ended_in_time_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(hardlimits, "steady", lambda: now)
    ended = threading.Event()
    limits = HardLimits(end=ended.set)
    limits.begin(1, 10.0, "push 1")
    limits.begin(2, 60.0, "push 2")
    limits.end(1)
    limits.end(1)
    now = 20.0
    assert not ended.wait(0.5)
    now = 61.0
    assert ended.wait(60), "the other one went on being watched"


def test_a_log_record_that_cannot_be_made_keeps_no_process_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardlimits.log, "critical", lambda *_: 1 / 0)
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    ended, blamed = threading.Event(), list[int]()
    HardLimits(blamed.append, end=ended.set).begin(7, 0.0, "push 1")
    assert ended.wait(60)
    assert blamed == [7]
