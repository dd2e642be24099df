"""The event loop that handlers cannot end, without a worker around it."""

from __future__ import annotations

import asyncio
import sys

import pytest

from chappe.bus.loop import OwnTask, attempt, run


async def test_a_task_of_ours_is_cancelled_by_us_and_by_the_attempt_that_it_runs_and_by_no_other() -> None:
    async def wait() -> None:
        await asyncio.Event().wait()

    task = OwnTask(wait(), loop=asyncio.get_running_loop(), name="slot-7")
    mine, other = object(), object()
    task.runs = mine
    token = attempt.set(other)
    with pytest.raises(RuntimeError, match="only what it started: slot-7 is a task of its worker"):
        task.cancel()
    attempt.set(mine)
    assert task.cancel()
    attempt.reset(token)
    assert task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("error", [SystemExit(3), ValueError("no")])
def test_what_the_program_itself_raises_ends_it(error: BaseException) -> None:
    async def main() -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        run(main())
    assert caught.value is error


def test_an_exit_in_the_same_turn_as_the_end_does_not_keep_the_loop_from_ending() -> None:
    async def main() -> str:
        loop = asyncio.get_running_loop()
        token = attempt.set("somebody")
        loop.call_soon(sys.exit, 3)
        attempt.reset(token)
        await asyncio.sleep(0)
        loop.call_soon(sys.exit, 3)
        return "done"

    assert run(main()) == "done"


def test_an_exit_of_nobody_in_particular_does_not_end_the_loop() -> None:
    async def main() -> str:
        asyncio.get_running_loop().call_soon(sys.exit, 3)
        for _ in range(3):
            await asyncio.sleep(0)
        return "done"

    assert run(main()) == "done"


def test_an_interrupt_from_the_terminal_ends_the_program() -> None:
    async def main() -> None:
        asyncio.get_running_loop().call_soon(raise_interrupt)
        await asyncio.Event().wait()

    with pytest.raises(KeyboardInterrupt):
        run(main())


def raise_interrupt() -> None:
    raise KeyboardInterrupt
