"""The thread that shows that a worker lives and that ends it when its loop does not turn."""

import asyncio
import logging
import threading
import time

import pytest

from chappe.worker import heartbeat as heartbeat_module
from chappe.worker.heartbeat import Heartbeat

from ..waiting import auntil, until


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have it beat ten times as often: what it finds does not depend on how long a beat is."""
    monkeypatch.setattr(heartbeat_module, "_BEAT", 0.1)
    monkeypatch.setattr(heartbeat_module, "_SLOW", 0.1)


def stop(heartbeat: Heartbeat) -> None:
    """Have it end, so that its last words are not heard in the next test."""
    heartbeat.stop()
    for thread in threading.enumerate():
        if thread.name == "chappe-heartbeat":
            thread.join(60)


async def test_it_beats_while_a_handler_keeps_the_loop() -> None:
    beats: list[float] = []
    twice = threading.Event()

    def beat(at: float) -> None:
        beats.append(at)
        if len(beats) == 2:
            twice.set()

    heartbeat = Heartbeat(beat)
    heartbeat.start()
    assert twice.wait(60), "this keeps the loop, as the handler does"
    stop(heartbeat)


async def test_a_loop_that_does_not_turn_is_told_with_its_stack(caplog: pytest.LogCaptureFixture) -> None:
    heartbeat = Heartbeat(lambda _: None)
    heartbeat.start()
    with caplog.at_level(logging.WARNING):
        until(lambda: caplog.records, "a warning, while this keeps the loop")
        time.sleep(0.12)  # noqa: ASYNC251 - the next look
    stop(heartbeat)
    (told,) = caplog.records
    assert "has not turned" in told.message
    assert "test_a_loop_that_does_not_turn_is_told" in told.message


async def test_a_loop_that_never_turns_ends_the_worker_and_names_the_task() -> None:
    blamed: list[str] = []
    ended = threading.Event()
    heartbeat = Heartbeat(lambda _: None, lambda name, _: blamed.append(name), limit=0.3, end=ended.set)
    heartbeat.start()

    async def culprit() -> None:
        ended.wait(60)  # keeps the loop for itself

    await asyncio.create_task(culprit(), name="slot-7")
    stop(heartbeat)
    assert ended.is_set()
    assert blamed == ["slot-7"]


async def test_a_loop_that_turns_is_left_alone() -> None:
    ended = threading.Event()
    beats: list[float] = []
    heartbeat = Heartbeat(beats.append, limit=10.0, end=ended.set)
    heartbeat.start()
    await auntil(lambda: len(beats) >= 3, "three beats")
    stop(heartbeat)
    assert not ended.is_set()


async def test_log_records_that_cannot_be_made_stop_no_heart_and_keep_no_worker_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []

    def broken(text: str, *_: object) -> None:
        said.append(text)
        raise RuntimeError("a record factory of the application")

    monkeypatch.setattr(heartbeat_module.log, "warning", broken)
    monkeypatch.setattr(heartbeat_module.log, "critical", broken)
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    ended = threading.Event()
    heartbeat = Heartbeat(lambda _: None, limit=0.3, end=ended.set)
    heartbeat.start()
    assert ended.wait(60), "this keeps the loop"
    stop(heartbeat)
    assert len(said) == 2
