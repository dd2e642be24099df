"""The default middleware: each capability acts only through its own, and their order is respected."""

import asyncio
from typing import Any

import pytest

from chappe import App, Command, Context, Rate, Reject, Retry, Unique
from chappe.bus.bus import Middleware
from chappe.bus.draft import Draft, new_id
from chappe.bus.handler import Handler
from chappe.messages.envelope import Options
from chappe.middleware.defaults import defaults
from chappe.middleware.limits import Expiry, TimeLimits
from chappe.middleware.queueing import Queueing
from chappe.middleware.rates import Rates
from chappe.middleware.retries import Retries
from chappe.testing import testing


class Everything(
    Command, queue="q", key="{n}", unique=Unique("{n}"), priority=4, delay=9.0, results=True,
    retry=Retry(2), rate=Rate("1/s"), timeout=30.0, ttl=10.0,
):  # fmt: skip
    n: int


def without(kind: type[Middleware]) -> list[Middleware]:
    return [m for m in defaults() if not isinstance(m, kind)]


def published(middleware: list[Middleware]) -> Any:
    return App("app", middleware=middleware).bus.prepare(Everything(n=1), Draft(new_id()))


def test_the_order_is_the_one_whose_reasons_are_written_down() -> None:
    assert [type(m) for m in defaults()] == [Retries, Expiry, Rates, TimeLimits, Queueing]


def test_removing_a_middleware_removes_its_behaviour_on_the_way_out() -> None:
    there, gone = published(defaults()), published(without(Queueing))
    assert (there.priority, there.delay, there.options.key, there.options.unique, there.options.tracked) == (
        4, 9.0, "1", "app:everything:1", True,
    )  # fmt: skip
    assert (gone.priority, gone.delay, gone.options) == (0, 0.0, None)


def test_without_any_middleware_a_message_only_travels() -> None:
    publication = published([])
    assert (publication.routing_key, publication.priority, publication.delay, publication.options) == ("q", 0, 0.0, None)
    assert isinstance(published(defaults()).options, Options)


class Failing(Command, queue="failing", retry=Retry(3, delay=1.0)):
    pass


class Stale(Command, queue="stale", ttl=0.000001):
    pass


class Slow(Command, queue="slow", timeout=0.02, retry=1):
    pass


class Paced(Command, queue="paced", rate="1/min"):
    n: int


def outcome(command: Command, middleware: list[Middleware], times: int = 1) -> tuple[list[int], list[str]]:
    """Return the attempts that ran, and the reasons of dead letters."""

    app, ran = App("app", middleware=middleware), list[int]()

    async def handler(message: Any, context: Context) -> None:
        ran.append(context.attempt)
        if isinstance(message, Failing):
            raise OSError("broken")
        if isinstance(message, Slow):
            await asyncio.sleep(0.1)

    app.registry.add_handler(type(command), Handler(handler), None)
    with testing(app) as t:
        for _ in range(times):
            t.send(command)
        t.advance(0.001)
        t.drain()
        t.advance(30)
        t.drain()
        return ran, [letter.reason for letter in t.dead]


@pytest.mark.parametrize(
    ("kind", "command", "times", "expected", "removed"),
    [
        (Retries, Failing(), 1, ([1, 2], []), ([1], ["failed"])),
        (Expiry, Stale(), 1, ([], ["expired"]), ([1], [])),
        (TimeLimits, Slow(), 1, ([1], ["attempts spent"]), ([1], [])),
        (Rates, Paced(n=1), 3, ([1], []), ([1, 1, 1], [])),
    ],
)
def test_removing_a_middleware_removes_its_behaviour_on_the_way_in(
    kind: type[Middleware], command: Command, times: int, expected: tuple[list[int], list[str]], removed: tuple[list[int], list[str]]
) -> None:
    ran, dead = outcome(command, defaults(), times)
    assert (ran, [reason.partition(":")[0] for reason in dead]) == expected
    ran, dead = outcome(command, without(kind), times)
    assert (ran, dead) == removed


def test_a_middleware_of_ones_own_runs_inside_the_defaults_so_that_its_failure_is_retried() -> None:
    app, seen = App("app"), list[int]()

    @app.handles(Failing)
    async def handle(command: Failing) -> None: ...

    async def breaking(message: Any, context: Context, call_next: Any) -> Any:
        seen.append(context.attempt)
        if context.attempt == 1:
            raise OSError("broken around")
        if context.attempt == 2:
            raise Reject("enough")
        return await call_next(message, context)

    app.use(breaking)
    with testing(app) as t:
        t.send(Failing())
        t.drain()
        t.advance(60)
        t.drain()
        assert seen == [1, 2]
        assert [letter.reason for letter in t.dead] == ["enough"]
