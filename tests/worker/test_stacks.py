"""The stacks of a worker process: what its tasks and threads do, and for which message."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from chappe.engines.stacks import Stack, asked_beside
from chappe.worker.stacks import stacks_of, tell_stacks

from ..waiting import auntil


async def _waits(event: asyncio.Event) -> None:
    await event.wait()


@pytest.fixture
async def telling(tmp_path: Path) -> AsyncIterator[Path]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTTIN, signal.SIGUSR1)}
    table = tmp_path / "1-2.running"
    tell_stacks(asyncio.get_running_loop(), table)
    yield asked_beside(table)
    for number, handler in before.items():
        signal.signal(number, handler)


def places(stack: Stack) -> list[str]:
    return [place.rpartition(" ")[2] for place, _ in stack.frames]


async def test_a_task_is_told_with_all_that_it_awaits_and_the_code_there() -> None:
    event = asyncio.Event()
    task = asyncio.create_task(_waits(event), name="waiting")
    await asyncio.sleep(0)
    (found,) = (one for one in stacks_of(asyncio.get_running_loop(), None) if one.name == "task waiting")
    assert places(found) == ["_waits", "wait"]
    assert found.frames[0][1] == "await event.wait()"
    event.set()
    await task


async def test_a_thread_is_told_where_it_is() -> None:
    ended = threading.Event()
    thread = threading.Thread(target=ended.wait)
    thread.start()
    found = next(one for one in stacks_of(asyncio.get_running_loop(), None) if one.name == f"thread {thread.ident}")
    assert found.frames[-1][0].split("/")[-1].startswith("threading.py:")
    ended.set()
    thread.join()


async def test_nothing_is_written_where_nobody_has_asked(telling: Path, capfd: Any) -> None:
    os.kill(os.getpid(), signal.SIGTTIN)
    await auntil(lambda: f"process {os.getpid()}" in capfd.readouterr().err)
    assert not telling.exists()


async def test_while_a_handler_keeps_the_event_loop_to_itself_its_stack_is_told_all_the_same(telling: Path) -> None:
    telling.touch()

    def compute() -> None:
        os.kill(os.getpid(), signal.SIGTTIN)
        while not telling.stat().st_size:
            sum(range(1000))

    async def handler() -> None:
        await asyncio.sleep(0)
        compute()

    await asyncio.create_task(handler(), name="busy")
    found = msgspec.json.decode(await auntil(telling.read_bytes), type=list[Stack])
    (busy,) = (one for one in found if one.name == "task busy")
    assert "handler" in places(busy)
    assert "compute" in places(busy)
