"""Tasks: a plain function as a command."""

import functools
from typing import Annotated, Any

import msgspec
import pytest

from chappe import App, Command, Context, InvalidMessage, Retry
from chappe.errors import DefinitionError
from chappe.testing import testing

from .decorators import bare, wrapped


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


Amount = Annotated[int, msgspec.Meta(ge=1, le=100)]


class Service:
    async def add(self, a: int, tool: Tool) -> str:
        return f"{a} {tool.word}"


async def add_to(base: int, a: int) -> int:
    return base + a


class Called:
    def __call__(self, a: int) -> int:
        return a


def test_the_constraints_of_a_parameter_are_those_of_the_field() -> None:
    app = make()

    @app.task
    def pay(amount: "Amount") -> int:
        return amount

    @app.task
    @wrapped
    def pay_later(amount: Amount) -> int:
        return amount

    for task in (pay, pay_later):
        with pytest.raises(InvalidMessage, match=r"\$.amount: Expected `int` >= 1"):
            task.send(-5)
        assert msgspec.json.schema(task.command)["$defs"][task.command.__name__]["properties"]["amount"]["minimum"] == 1


def positional(a: int, /, b: int, *, c: int = 3) -> list[int]:
    return [a, b, c]


def odd_names(cls: int, self: int, message: int, queue: str, send: int, message_: int = 0, given: int = 1) -> list[Any]:
    return [cls, self, message, queue, send, message_, given]


def changing(items: list[int] = [1], more: dict[str, int] = {}) -> Any:  # noqa: B006 - this is the point
    items.append(len(more))
    return items


@pytest.mark.parametrize(
    ("function", "args", "kwargs", "result"),
    [
        (positional, (1, 2), {}, [1, 2, 3]),
        (positional, (1,), {"b": 2, "c": 4}, [1, 2, 4]),
        (odd_names, (1,), {"self": 2, "message": 3, "queue": "q", "send": 5}, [1, 2, 3, "q", 5, 0, 1]),
        (odd_names, (), {"cls": 1, "self": 2, "message": 3, "queue": "q", "send": 5, "message_": 6}, [1, 2, 3, "q", 5, 6, 1]),
        (changing, (), {}, [1, 0]),
        (changing, ([],), {"more": {"a": 1}}, [1]),
        (Service().add, (1,), {}, "1 tool"),
        (functools.partial(add_to, 2), (1,), {}, 3),
        (functools.partial(add_to, base=2), (), {"a": 1}, 3),
        (Called(), (7,), {}, 7),
        (bare(Called()), None, None, "stands for any number of values"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_whatever_parameters_a_task_has_it_runs_or_is_refused_where_it_is_declared(
    function: Any, args: Any, kwargs: Any, result: Any
) -> None:
    app = make()
    if args is None:
        with pytest.raises(DefinitionError, match=result):
            app.task(function)
        return
    task = app.task(function)
    with testing(app) as t:
        assert t.ask(task.message(*args, **kwargs)) == result
        assert t.ask(task.message(*args, **kwargs)) == result


def variadic(*numbers: int) -> None: ...


def keywords(a: int, **more: int) -> None: ...


def unannotated(a: int, b=2) -> None: ...  # type: ignore[no-untyped-def] # noqa: ANN001


def merging(merge: bool) -> None: ...


def of_no_type(a: int, b: "Nowhere") -> None: ...  # type: ignore[name-defined] # noqa: F821 # pyright: ignore[reportUndefinedVariable]


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (
            variadic,
            r'variadic \(.*test_task.py:\d+\): parameter "numbers" stands for any number of values, .* take one list: numbers: list\[…\]',
        ),
        (keywords, r'parameter "more" stands for any names, and a command has known fields; take one dict: more: dict\[str, …\]'),
        (unannotated, 'parameter "b" needs an annotation: the type of a field, or a type that is provided'),
        (lambda a: a, "needs a name, because its command is called by it; write it with def"),
        (of_no_type, r"name 'Nowhere' is not defined\); define or import it"),
        (5, "5 is no function"),
    ],
)
def test_a_task_that_no_command_could_be_is_refused_where_it_is_declared(function: Any, says: str) -> None:
    with pytest.raises(DefinitionError, match=says):
        make().task(function)


def test_keyword_only_parameters_are_not_taken_by_position_and_none_is_taken_twice() -> None:
    task = make().task(positional)
    with pytest.raises(TypeError, match="takes 2 arguments by position that travel, not 3"):
        task.message(1, 2, 3)
    with pytest.raises(TypeError, match="was given b by position and by name"):
        task.message(1, 2, b=2)
