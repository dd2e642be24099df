"""The capability `rate`: not more starts in a period than allowed."""

import time
from typing import Any

import pytest

from chappe import Command, Context, Rate, Snooze
from chappe.bus.context import NO_PORTS, Ports
from chappe.middleware.rates import RESERVED, Rates

from .wrapped import costs_nothing, handled


class Push(Command, queue="q", rate=Rate("10/s", key="{channel}", burst=3)):
    channel: str


class Shared(Command, queue="q", rate="1/min"):
    pass


class Free(Command, queue="q"):
    pass


class Budget:
    """Answers each reservation with one wait, and notes what was asked."""

    def __init__(self, wait: float) -> None:
        self.wait = wait
        self.asked: list[tuple[str, float, int]] = []

    def context(self, note: str | None = None, queue: str = "") -> Context:
        async def take(budget: str, interval: float, burst: int) -> float:
            self.asked.append((budget, interval, burst))
            return self.wait

        return Context(
            "id", note=note, queue=queue, ports=Ports(mark=NO_PORTS.mark, marks=NO_PORTS.marks, progress=NO_PORTS.progress, take=take)
        )


async def handler(message: Any, context: Context) -> str:
    return "handled"


async def test_within_its_rate_a_message_starts_at_once() -> None:
    budget = Budget(0.0)
    assert await handled(Rates(), Push(channel="alpine"), handler, budget.context()) == "handled"
    assert budget.asked == [("push:alpine", 0.1, 3)]


async def test_a_rate_without_a_key_is_one_budget_for_all() -> None:
    budget = Budget(0.0)
    await handled(Rates(), Shared(), handler, budget.context())
    assert budget.asked == [("shared", 60.0, 1)]


async def test_a_message_whose_turn_is_later_gives_its_slot_away() -> None:
    with pytest.raises(Snooze) as caught:
        await handled(Rates(), Push(channel="a"), handler, Budget(4.5).context(queue="push"))
    assert (caught.value.after, caught.value.note) == (4.5, RESERVED)


async def test_here_and_now_there_is_no_queue_to_wait_in_so_the_caller_waits() -> None:
    started = time.monotonic()
    assert await handled(Rates(), Push(channel="a"), handler, Budget(0.05).context()) == "handled"
    assert time.monotonic() - started >= 0.049


async def test_a_message_that_comes_back_with_its_reservation_starts_without_another() -> None:
    budget = Budget(100.0)
    assert await handled(Rates(), Push(channel="a"), handler, budget.context(note=RESERVED)) == "handled"
    assert budget.asked == []


async def test_a_very_short_wait_is_waited_in_the_slot() -> None:
    started = time.monotonic()
    assert await handled(Rates(), Push(channel="a"), handler, Budget(0.015).context()) == "handled"
    assert time.monotonic() - started >= 0.014


def test_messages_without_a_rate_pay_nothing() -> None:
    assert costs_nothing(Rates(), Free())
