"""The capabilities `timeout` and `ttl`."""

import asyncio
from typing import Any

import pytest

from chappe import Command, Context, Reject
from chappe.middleware.limits import Expiry, TimeLimits

from .wrapped import costs_nothing, handled


class Quick(Command, queue="q", timeout=0.03):
    pass


class Fresh(Command, queue="q", ttl=60.0):
    pass


class Unlimited(Command, queue="q"):
    pass


async def test_an_attempt_that_takes_too_long_is_cancelled_and_fails_with_the_limit() -> None:
    cancelled: list[bool] = []

    async def slow(message: Any, context: Context) -> None:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    with pytest.raises(TimeoutError, match=r"longer than its timeout of 0\.03 s"):
        await handled(TimeLimits(), Quick(), slow)
    assert cancelled == [True]


async def test_a_timeout_of_the_handlers_own_is_left_alone() -> None:
    async def own(message: Any, context: Context) -> None:
        raise TimeoutError("the server did not answer")

    with pytest.raises(TimeoutError, match="the server did not answer"):
        await handled(TimeLimits(), Quick(), own)


async def test_an_attempt_within_its_time_gives_its_result() -> None:
    async def quick(message: Any, context: Context) -> int:
        return 1

    assert await handled(TimeLimits(), Quick(), quick) == 1


@pytest.mark.parametrize(("age", "expired"), [(0.0, False), (60.0, False), (60.1, True), (3600.0, True), (-5.0, False)])
async def test_a_message_older_than_its_ttl_is_rejected_before_it_starts(age: float, expired: bool) -> None:
    async def handler(message: Any, context: Context) -> str:
        return "handled"

    work = handled(Expiry(), Fresh(), handler, Context("id", sent_at=10_000.0 - age, now=lambda: 10_000.0))
    if expired:
        with pytest.raises(Reject, match="expired: .* s old, its ttl is 60 s"):
            await work
    else:
        assert await work == "handled"


async def test_a_foreign_message_without_a_time_does_not_expire() -> None:
    async def handler(message: Any, context: Context) -> str:
        return "handled"

    assert await handled(Expiry(), Fresh(), handler, Context("id", sent_at=0.0)) == "handled"


@pytest.mark.parametrize("middleware", [TimeLimits(), Expiry()])
def test_messages_without_limits_pay_nothing(middleware: Any) -> None:
    assert costs_nothing(middleware, Unlimited())
