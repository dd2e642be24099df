"""The capability `rate`: not more starts in a period than allowed."""

from types import new_class
from typing import Any

import pytest

from chappe import Budget as BudgetOf
from chappe import Command, Context, Rate
from chappe.bounds import FURTHEST, STARTS_AHEAD
from chappe.bus.context import Ports
from chappe.engines.contract.results import Start
from chappe.errors import DefinitionError, InvalidCapability, Throttled
from chappe.middleware.rates import Rates

from .wrapped import costs_nothing, handled


class Push(Command, queue="q", rate=Rate("10/s", key="{channel}", burst=3)):
    channel: str


class Shared(Command, queue="q", rate="1/min"):
    pass


class Free(Command, queue="q"):
    pass


class Budget:
    """Answers each who asks in one way, and notes what was asked; its clock is moved by hand."""

    def __init__(self, wait: float, *, granted: bool = True) -> None:
        self.start = Start(granted, wait)
        self.asked: list[tuple[str, float | None, int]] = []
        self.closed = set[str]()
        self.details: list[tuple[float, int]] = []
        self.throttled: list[tuple[str, float | None]] = []
        self.now = 1000.0

    def context(self, note: str | None = None, queue: str = "", tag: int = 0) -> Context:
        async def take(budget: str, interval: float | None, burst: int, *, within: float, tag: int) -> Start:
            self.asked.append((budget, interval, burst))
            self.details.append((within, tag))
            return Start(granted=False, wait=9.0) if budget in self.closed else self.start

        async def throttle(budget: str, until: float | None) -> None:
            self.throttled.append((budget, until))

        ports = Ports(take=take, throttle=throttle)
        return Context("id", note=note, queue=queue, ports=ports, now=lambda: self.now, tag=tag)


async def handler(message: Any, context: Context) -> str:
    return "handled"


async def test_within_its_rate_a_message_starts_at_once() -> None:
    budget = Budget(0.0)
    assert await handled(Rates(), Push(channel="alpine"), handler, budget.context(queue="q", tag=7)) == "handled"
    assert budget.asked == [("push:alpine", 0.1, 3)]
    assert budget.details == [(STARTS_AHEAD, 7)]


async def test_a_rate_without_a_key_is_one_budget_for_all() -> None:
    budget = Budget(0.0)
    await handled(Rates(), Shared(), handler, budget.context())
    assert budget.asked == [("shared", 60.0, 1)]


async def test_a_message_whose_budget_has_no_room_gives_its_slot_away_and_keeps_its_note() -> None:
    with pytest.raises(Throttled) as caught:
        await handled(Rates(), Push(channel="a"), handler, Budget(4.5, granted=False).context("mine", "push"))
    assert (caught.value.budget, caught.value.after, caught.value.note) == ("push:a", 4.5, "mine")


async def test_here_and_now_there_is_no_queue_to_wait_in_so_the_caller_takes_its_place_and_waits() -> None:
    budget = Budget(0.005)
    assert await handled(Rates(), Push(channel="a"), handler, budget.context()) == "handled"
    assert budget.details == [(FURTHEST, 0)]


async def test_nobody_is_asked_again_before_the_budget_may_have_room() -> None:
    rates, budget = Rates(), Budget(60.0, granted=False)
    for _ in range(3):
        with pytest.raises(Throttled):
            await handled(rates, Push(channel="a"), handler, budget.context(queue="push"))
    assert len(budget.asked) == 1
    with pytest.raises(Throttled):
        await handled(rates, Push(channel="b"), handler, budget.context(queue="push"))
    assert len(budget.asked) == 2, "each budget is asked for itself"
    budget.now += 60.0 - STARTS_AHEAD
    budget.start = Start(granted=True, wait=0.0)
    assert await handled(rates, Push(channel="a"), handler, budget.context(queue="push")) == "handled"


async def test_one_that_stands_behind_another_asks_again() -> None:
    rates, budget = Rates(), Budget(0.0, granted=False)
    for _ in range(2):
        with pytest.raises(Throttled):
            await handled(rates, Push(channel="a"), handler, budget.context(queue="push"))
    assert len(budget.asked) == 2


async def test_a_handler_stops_the_budget_for_all_workers() -> None:
    async def stops(message: Any, context: Context) -> str:
        await context.throttle(90)
        return "handled"

    budget = Budget(0.0)
    assert await handled(Rates(), Push(channel="a"), stops, budget.context(queue="push")) == "handled"
    assert budget.throttled == [("push:a", 1090.0)]


async def test_a_message_without_a_rate_has_no_budget_to_stop() -> None:
    with pytest.raises(DefinitionError, match="rate="):
        Context("id").throttle(90)


def test_messages_without_a_rate_pay_nothing() -> None:
    assert costs_nothing(Rates(), Free())


class Account(Command, queue="q", budget=("pocket:{user}", BudgetOf("tags", "1/s", burst=2)), rate="1/min"):
    user: str


async def test_a_message_takes_a_start_of_its_rate_and_of_each_of_its_budgets() -> None:
    budget = Budget(0.0)
    await handled(Rates(), Account(user="ada"), handler, budget.context(queue="q"))
    assert budget.asked == [("account", 60.0, 1), ("pocket:ada", None, 1), ("tags", 1.0, 2)]


async def test_nothing_is_taken_while_one_of_several_budgets_is_known_to_have_no_room() -> None:
    budget, rates = Budget(0.0), Rates()
    budget.closed.add("tags")
    for _ in range(2):
        with pytest.raises(Throttled):
            await handled(rates, Account(user="ada"), handler, budget.context(queue="q"))
    assert [name for name, *_ in budget.asked] == ["account", "pocket:ada", "tags"]


async def test_a_handler_of_several_budgets_says_which_one_refused_and_needs_no_seconds_for_one_that_is_learned() -> None:
    budget = Budget(0.0)

    async def refused(_: Any, context: Context) -> None:
        await context.throttle(budget="pocket:ada")
        await context.throttle(9, "tags")
        with pytest.raises(DefinitionError, match='say which budget: "account", "pocket:ada", "tags"'):
            context.throttle(9)
        with pytest.raises(DefinitionError, match='"tags" has a limit'):
            context.throttle(budget="tags")

    await handled(Rates(), Account(user="ada"), refused, budget.context(queue="q"))
    assert budget.throttled == [("pocket:ada", None), ("tags", 1009.0)]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (lambda: BudgetOf(""), "length >= 1"),
        (lambda: BudgetOf("pocket", "often"), 'write it like "10/s"'),
        (lambda: BudgetOf("pocket", "1/s", burst=0), ">= 1"),
        (lambda: new_class("Bad", (Command,), {"queue": "q", "budget": "pocket:{who}"}), 'names "who"'),
        (lambda: new_class("Bad", (Command,), {"queue": "q", "budget": 5}), "budget"),
    ],
)
def test_budgets_that_cannot_be_are_refused(given: Any, says: str) -> None:
    with pytest.raises(InvalidCapability, match=says):
        given()
