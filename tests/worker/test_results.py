"""A result that cannot be written is no failure: the message is done, what it sent leaves, and who asks hears why there is none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from chappe import App, Command, Context, Retry
from chappe.errors import CommandFailed
from chappe.testing import testing


class Odd:
    @property
    def __dict__(self) -> dict[str, Any]:  # type: ignore[override]
        raise SystemExit


def circular() -> list[Any]:
    inside: list[Any] = []
    inside.append(inside)
    return inside


RESULTS: dict[str, Callable[[], Any]] = {
    "object": object,
    "set of objects": lambda: {object()},
    "nan": lambda: {"x": [float("nan")]},
    "circular": circular,
    "surrogate": lambda: "caf\udce9",
    "odd": Odd,
    "class": lambda: ValueError,
    "large": lambda: "x" * 33 * 1024 * 1024,
}


class Do(Command, queue="do", retry=Retry(3, delay=0.0, jitter=0.0)):
    what: str


class Twice(Do, queue="twice"): ...


class Sent(Command, queue="sent"):
    what: str


def test_a_result_that_is_no_json_leaves_its_message_done(caplog: pytest.LogCaptureFixture) -> None:
    app, ran = App("results"), list[str]()

    @app.handles(Do)
    async def do(command: Do, context: Context) -> Any:
        ran.append(command.what)
        context.send(Sent(what=command.what))
        return RESULTS[command.what]()

    app.knows(Sent)
    with testing(app) as t:
        for what in RESULTS:
            with pytest.raises(CommandFailed, match="failed: done, but its result") as caught:
                t.ask(Do(what=what), timeout=30.0)
            assert caught.value.state == "done"
            assert f"do {caught.value.message_id} is done, but its result" in caplog.text
        assert t.dead == []
        assert [one.what for one in t.sent(Sent)] == list(RESULTS)
    assert ran == list(RESULTS)


def test_a_result_between_two_handlers_that_is_no_json_is_not_the_end_of_the_first() -> None:
    app, ran = App("results"), list[str]()

    @app.handles(Twice)
    async def first(command: Twice) -> object:
        ran.append("first")
        return object()

    @app.handles(Twice)
    async def second(command: Twice) -> int:
        ran.append("second")
        return 2

    with testing(app) as t:
        assert t.ask(Twice(what="x"), timeout=30.0) == 2
        assert t.dead == []
    assert ran == ["first", "second"]
