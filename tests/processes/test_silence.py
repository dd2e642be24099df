"""Frozen processes are found and replaced, and slow ones are left alone."""

import signal

import psutil
import pytest

from ..waiting import until
from .conftest import Mill, has_ended


def test_a_frozen_engine_is_replaced_and_a_send_that_waits_for_it_is_confirmed(mill: Mill) -> None:
    mill.environment["CHAPPE_DEADLINE"] = "60"  # who looks and stood still itself begins anew
    mill.run()
    engine = psutil.Process(mill.pid("engine"))
    engine.send_signal(signal.SIGSTOP)
    mill.send('Work(name="after")')
    until(lambda: "after" in mill.names("end"))
    assert has_ended(engine.pid)
    assert "engine" in mill.errors()
    assert "gave no sign of life" in mill.errors()


@pytest.mark.proof  # the silence that is borne is twelve seconds
def test_a_frozen_worker_is_replaced_and_what_it_held_runs_elsewhere(mill: Mill) -> None:
    mill.run()
    worker = psutil.Process(mill.pid("default-1"))
    mill.send('Work(name="held", seconds=60)')
    until(lambda: "held" in mill.names("start"))
    worker.send_signal(signal.SIGSTOP)
    mill.release()
    until(lambda: "held" in mill.names("end"), "the message to run elsewhere")
    assert [line.pid for line in mill.lines("end")] != [worker.pid]
    until(lambda: has_ended(worker.pid), "the frozen worker to be killed")


@pytest.mark.proof
def test_a_handler_that_keeps_the_loop_for_a_while_loses_neither_its_message_nor_its_worker(mill: Mill) -> None:
    mill.run()
    before = mill.pid("default-1")
    mill.send("Busy(seconds=14.0)")  # longer than the engine's and the supervisor's patience with the silent
    until(lambda: "busy" in mill.names("end"), "the handler to end")
    assert mill.names("start") == ["busy"], "it ran once"
    assert mill.pid("default-1") == before
    assert "the event loop has not turned" in mill.errors()
