"""Tasks: a plain function as a command."""

from typing import Any

import pytest

from chappe import App, Command, Context, InvalidMessage, Retry
from chappe.testing import testing


class Tool:
    word = "tool"


def make() -> App:
    app = App("tasks")

    @app.provides
    def tool() -> Tool:
        return Tool()

    return app


def test_a_task_is_called_like_the_function_it_was() -> None:
    app = make()

    @app.task
    def add(a: int, b: int = 2) -> int:
        return a + b

    assert add(1) == 3
    assert add(1, b=5) == 6


def test_a_task_is_a_command_named_after_the_function_with_its_parameters_as_fields() -> None:
    app = make()

    @app.task(queue="sums", retry=Retry(2))
    def add_up(a: int, tool: Tool, context: Context, b: int = 2) -> int:
        """Add two numbers."""
        return a + b

    kind: Any = add_up.command
    assert issubclass(add_up.command, Command)
    assert kind.__spec__.name == "add.up"
    assert (kind.__spec__.queue, kind.__spec__.retry) == ("sums", Retry(2))
    assert kind.__struct_fields__ == ("a", "b")
    assert kind.__doc__ == "Add two numbers."
    assert add_up.message(1) == kind(a=1, b=2)
    assert add_up.message(1, b=3) == add_up.message(a=1, b=3) == kind(a=1, b=3)


@pytest.mark.parametrize("colour", ["plain", "coroutine"])
def test_a_sent_task_runs_with_its_arguments_and_what_is_provided(colour: str) -> None:
    app = make()

    @app.task
    def plain(a: int, tool: Tool, context: Context) -> str:
        return f"{a} {tool.word} {context.attempt}"

    @app.task
    async def coroutine(a: int, tool: Tool, context: Context) -> str:
        return f"{a} {tool.word} {context.attempt}"

    task = plain if colour == "plain" else coroutine
    with testing(app) as t:
        task.send(7)
        t.drain()
        assert t.ask(task.message(7)) == "7 tool 1"


@pytest.mark.parametrize("colour", ["plain", "asynchronous"])
def test_a_task_that_yields_sends(colour: str) -> None:
    app = make()

    @app.task
    def child(n: int) -> None: ...

    @app.task
    def plain(n: int) -> Any:
        for i in range(n):
            yield child.message(i)

    @app.task
    async def asynchronous(n: int) -> Any:
        for i in range(n):
            yield child.message(i)

    with testing(app) as t:
        (plain if colour == "plain" else asynchronous).send(3)
        t.drain()
        assert [m.n for m in t.sent(child.command)] == [0, 1, 2]  # type: ignore[attr-defined] # pyright: ignore[reportAttributeAccessIssue]


def test_wrong_arguments_are_refused_when_they_are_sent() -> None:
    app = make()

    @app.task
    def add(a: int) -> int:
        return a

    wrong: Any = "x"
    with pytest.raises(InvalidMessage, match=r"\$\.a"):
        add.send(wrong)
    with pytest.raises(InvalidMessage, match=r"\$\.a: Field required"):
        add.message()  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]


def test_too_many_arguments_are_refused_as_by_the_function() -> None:
    app = make()

    @app.task
    def add(a: int) -> int:
        return a

    with pytest.raises(TypeError):
        add.message(1, 2)  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
