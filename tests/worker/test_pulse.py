"""The thread that shows that a worker lives and that ends it when its loop does not turn."""

import asyncio
import logging
import threading
import time

import pytest

from noria.worker.pulse import Pulse

from ..waiting import auntil


async def test_it_beats_while_a_handler_keeps_the_loop() -> None:
    beats: list[float] = []
    pulse = Pulse(beats.append)
    pulse.start()
    time.sleep(2.3)  # noqa: ASYNC251 - the fault that is looked for
    pulse.stop()
    assert len(beats) >= 2


async def test_a_loop_that_does_not_turn_is_told_with_its_stack(caplog: pytest.LogCaptureFixture) -> None:
    pulse = Pulse(lambda _: None)
    pulse.start()
    with caplog.at_level(logging.WARNING):
        time.sleep(3.2)  # noqa: ASYNC251 - the fault that is looked for
    pulse.stop()
    assert caplog.text.count("has not turned") == 1
    assert "test_a_loop_that_does_not_turn_is_told" in caplog.text


async def test_a_loop_that_never_turns_ends_the_worker_and_names_the_task() -> None:
    blamed: list[str] = []
    ended = threading.Event()
    pulse = Pulse(lambda _: None, blamed.append, limit=1.5, end=ended.set)
    pulse.start()

    async def culprit() -> None:
        ended.wait(20)  # keeps the loop for itself

    await asyncio.create_task(culprit(), name="slot-7")
    pulse.stop()
    assert ended.is_set()
    assert blamed == ["slot-7"]


async def test_a_loop_that_turns_is_left_alone() -> None:
    ended = threading.Event()
    beats: list[float] = []
    pulse = Pulse(beats.append, limit=1.0, end=ended.set)
    pulse.start()
    await auntil(lambda: len(beats) >= 3, "three beats")
    pulse.stop()
    assert not ended.is_set()
