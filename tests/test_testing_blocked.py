"""A handler that cannot be interrupted: a test that drains ends with an error that names it, and so does the process of the tests."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from chappe import App, Command, Context
from chappe.testing import Trial, testing

from .waiting import until


class Block(Command, queue="blocks"):
    n: int = 0


class Blocked:
    """An application whose handler stands in C until it is let go, on the event loop or in a thread."""

    def __init__(self, kind: str) -> None:
        self.app, self.gate = App("blocked"), threading.Event()

        async def on_the_loop(command: Block, context: Context) -> None:
            self.stand_still()

        def in_a_thread(command: Block, context: Context) -> None:
            self.stand_still()

        self.name = kind
        self.app.handles(Block)(on_the_loop if kind == "on_the_loop" else in_a_thread)

    def stand_still(self) -> None:
        self.gate.wait()  # here it stands


@pytest.fixture(params=["on_the_loop", "in_a_thread"])
def blocked(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Blocked]:
    monkeypatch.setattr("chappe.testing._MARGIN", 0.2)
    monkeypatch.setattr("chappe.worker.worker._LAST_WAIT", 0.1)
    before = set(threading.enumerate())
    made = Blocked(request.param)
    yield made
    made.gate.set()
    for thread in set(threading.enumerate()) - before:
        thread.join(30.0)


def asked(t: Trial) -> Any:
    return t.app.ask(Block(), timeout=0.1)


async def asked_asynchronously(app: App) -> None:
    async with testing(app) as t:
        await t.app.aask(Block(), timeout=0.1)


@pytest.mark.parametrize("drain", [lambda t: t.drain(timeout=0.1), asked])
def test_a_drain_that_cannot_end_names_the_handler_and_where_it_stands(blocked: Blocked, drain: Callable[[Trial], Any]) -> None:
    with testing(blocked.app) as t:
        t.send(Block())
        with pytest.raises(TimeoutError, match="1 handler is still running after 0.1 s") as raised:
            drain(t)
        text = str(raised.value)
        assert blocked.name in text and "test_testing_blocked.py" in text and "self.gate.wait()  # here it stands" in text
        if blocked.name == "on_the_loop":
            for ask in (lambda: t.dead, lambda: t.advance(1.0)):
                with pytest.raises(TimeoutError, match="here it stands"):
                    ask()


def test_asking_in_an_asynchronous_test_ends_too(blocked: Blocked) -> None:
    with pytest.raises(TimeoutError, match="here it stands"):
        asyncio.run(asked_asynchronously(blocked.app))


def test_a_handler_that_is_let_go_after_all_leaves_nothing(blocked: Blocked) -> None:
    with testing(blocked.app) as t:
        t.send(Block())
        with pytest.raises(TimeoutError):
            t.drain(timeout=0.1)
        blocked.gate.set()
        until(lambda: t._pulse is not None and t._pulse.done(), "the event loop to move again")
        assert t.drain() <= 1


@pytest.mark.parametrize("colour", ["async def", "def"])
def test_the_process_of_the_tests_ends_though_a_handler_never_does(colour: str) -> None:
    program = f"""
import threading
from chappe import App, Command
from chappe.testing import testing
app = App("stuck")
class Block(Command): ...
@app.handles(Block)
{colour} block(command: Block): threading.Event().wait()
with testing(app) as t:
    t.send(Block())
    try: t.drain(timeout=0.1)
    except TimeoutError: print("told")
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert (ended.returncode, ended.stdout) == (0, "told\n"), ended.stderr
