"""Handlers of every colour: `async def` or `def`, returning or yielding."""

import asyncio
import contextlib
import functools
import threading
import unittest.mock
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any

import pytest

from chappe import Command, Context, Event
from chappe.bus.handler import Handler
from chappe.bus.providers import Providers
from chappe.errors import DefinitionError

from .decorators import Traced, bare, wrapped


class Do(Command, queue="q"):
    number: int


class Done(Event):
    number: int


class Tool:
    pass


@pytest.fixture
def threads():
    with ThreadPoolExecutor(1, "handler") as pool:
        yield pool


async def coroutine(command: Do) -> int:
    return command.number * 2


def plain(command: Do) -> int:
    return command.number * 2


async def asynchronous_yields(command: Do) -> AsyncIterator[Done]:
    yield Done(number=command.number)
    await asyncio.sleep(0)
    yield Done(number=command.number + 1)


def synchronous_yields(command: Do) -> Iterator[Done]:
    yield Done(number=command.number)
    yield Done(number=command.number + 1)


@pytest.mark.parametrize("function", [coroutine, plain])
async def test_what_a_handler_returns_is_the_result(function: Callable[..., Any], threads: ThreadPoolExecutor) -> None:
    context = Context("id")
    invoke = await Handler(function).bind(Providers(), threads)
    assert await invoke(Do(number=21), context) == 42
    assert context.then == []


class Service:
    async def method(self, command: Do) -> int:
        return command.number * 2

    async def keyword(self, command: Do, *, factor: int) -> int:
        return command.number * factor

    bound = functools.partialmethod(keyword, factor=2)


class Called:
    async def __call__(self, command: Do) -> int:
        return command.number * 2


async def prefixed(prefix: str, command: Do) -> int:
    return command.number * len(prefix)


def in_a_pool(command: Do) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(plain, command)


async def twice(command: Do) -> Any:
    return coroutine(command)


def generated(command: Do) -> Iterator[Done]:
    yield Done(number=command.number)
    return command.number * 2  # noqa: B901


@pytest.mark.parametrize(
    "function",
    [
        wrapped(coroutine), Traced(coroutine), bare(coroutine), bare(plain), staticmethod(coroutine), staticmethod(plain), twice,
        Service().method, Service().bound, wrapped(Service().method), Called(), bare(Called()), functools.partial(prefixed, "ab"),
        functools.partial(Called()), lambda command: coroutine(command), lambda command: command.number * 2, in_a_pool,
        unittest.mock.AsyncMock(return_value=42), unittest.mock.Mock(side_effect=plain), unittest.mock.Mock(side_effect=coroutine), generated,
    ],
)  # fmt: skip
async def test_whatever_is_called_is_judged_by_what_it_returns(function: Callable[..., Any], threads: ThreadPoolExecutor) -> None:
    invoke = await Handler(function).bind(Providers(), threads)
    assert await invoke(Do(number=21), Context("id")) == 42


@pytest.mark.parametrize("wrap", [wrapped, bare, Traced])
@pytest.mark.parametrize("function", [asynchronous_yields, synchronous_yields])
async def test_what_is_yielded_behind_a_plain_decorator_goes_to_then(
    wrap: Callable[..., Any], function: Callable[..., Any], threads: ThreadPoolExecutor
) -> None:
    async def returning(command: Do) -> Any:
        return function(command)

    for handler in (wrap(function), returning, wrap(returning)):
        context = Context("id")
        invoke = await Handler(handler).bind(Providers(), threads)
        assert await invoke(Do(number=1), context) is None
        assert [message for message, _ in context.then] == [Done(number=1), Done(number=2)]


@contextlib.contextmanager
def managed(command: Do) -> Iterator[None]:
    yield


@pytest.mark.parametrize("function", [lambda command: coroutine, lambda command: functools.partial(coroutine, command), managed])
async def test_what_would_still_have_to_be_called_is_no_success(function: Callable[..., Any], threads: ThreadPoolExecutor) -> None:
    invoke = await Handler(function).bind(Providers(), threads)
    with pytest.raises(TypeError, match="can be called, and nobody would call it; is a decorator missing its parentheses"):
        await invoke(Do(number=1), Context("id"))


@pytest.mark.parametrize(
    ("held", "says"),
    [
        (lambda one: [1, one], "a list with a coroutine in it"),
        (lambda one: (one,), "a tuple with a coroutine in it"),
        (lambda one: {one}, "a set with a coroutine in it"),
        (lambda one: {"a": one}, "a dict with a coroutine in it"),
        (lambda one: [asyncio.gather(one)], "a list with a _GatheringFuture in it"),
    ],
)
@pytest.mark.parametrize("wrap", [lambda function: function, bare], ids=["asynchronous", "plain"])
async def test_what_a_result_holds_that_nobody_would_await_is_no_success(
    wrap: Callable[..., Any], held: Callable[[Any], Any], says: str, threads: ThreadPoolExecutor
) -> None:
    async def fans_out(command: Do) -> Any:
        return held(coroutine(command))

    invoke = await Handler(wrap(fans_out)).bind(Providers(), threads)
    with pytest.raises(TypeError, match=f"the handler returned {says}, and nobody would await that"):
        await invoke(Do(number=1), Context("id"))


async def test_what_a_thread_returns_to_be_awaited_is_awaited_on_the_loop(threads: ThreadPoolExecutor) -> None:
    places: list[str] = []

    async def inner(command: Do) -> None:
        await asyncio.sleep(0)
        places.append(threading.current_thread().name)

    def outer(command: Do) -> Any:
        places.append(threading.current_thread().name)
        return inner(command)

    await (await Handler(outer).bind(Providers(), threads))(Do(number=1), Context("id"))
    assert places[0].startswith("handler")
    assert places[1] == threading.current_thread().name


@pytest.mark.parametrize("function", [asynchronous_yields, synchronous_yields])
async def test_what_a_handler_yields_goes_to_then(function: Callable[..., Any], threads: ThreadPoolExecutor) -> None:
    context = Context("id")
    invoke = await Handler(function).bind(Providers(), threads)
    assert await invoke(Do(number=1), context) is None
    assert [message for message, _ in context.then] == [Done(number=1), Done(number=2)]


@pytest.mark.parametrize("colour", ["async", "sync"])
async def test_yielding_anything_but_a_message_is_an_error(colour: str, threads: ThreadPoolExecutor) -> None:
    async def wrong_async(command: Do) -> AsyncIterator[int]:
        yield 3

    def wrong_sync(command: Do) -> Iterator[int]:
        yield 3

    invoke = await Handler(wrong_async if colour == "async" else wrong_sync).bind(Providers(), threads)
    with pytest.raises(TypeError, match="yield commands and events only, not int"):
        await invoke(Do(number=1), Context("id"))


async def test_plain_functions_run_in_threads_and_coroutines_on_the_loop(threads: ThreadPoolExecutor) -> None:
    async def on_loop(command: Do) -> str:
        return threading.current_thread().name

    def in_thread(command: Do) -> str:
        return threading.current_thread().name

    here = threading.current_thread().name
    assert await (await Handler(on_loop).bind(Providers(), threads))(Do(number=1), Context("id")) == here
    assert (await (await Handler(in_thread).bind(Providers(), threads))(Do(number=1), Context("id"))).startswith("handler")


@pytest.mark.parametrize("colour", ["coroutine", "plain"])
async def test_a_handler_is_given_what_it_asks_for_by_annotation(colour: str, threads: ThreadPoolExecutor) -> None:
    async def coroutine(command: Do, tool: Tool, context: Context) -> tuple[Tool, str]:
        return tool, context.id

    def plain(command: Do, tool: Tool, context: Context) -> tuple[Tool, str]:
        return tool, context.id

    providers, tool = Providers(), Tool()
    providers.put(Tool, tool)
    invoke = await Handler(coroutine if colour == "coroutine" else plain).bind(providers, threads)
    assert await invoke(Do(number=1), Context("the id")) == (tool, "the id")


async def test_a_parameter_with_a_default_is_given_only_if_something_provides_it(threads: ThreadPoolExecutor) -> None:
    def handler(command: Do, tool: Tool | None = None, factor: int = 3) -> Any:
        return factor

    found = Handler(handler)
    assert found.unmet(Providers()) == []
    assert await (await found.bind(Providers(), threads))(Do(number=1), Context("id")) == 3


def test_unmet_parameters_are_listed_by_name_and_type() -> None:
    def handler(command: Do, tool: Tool, context: Context) -> None: ...

    assert Handler(handler).unmet(Providers()) == ["tool: Tool"]


def empty() -> None: ...


def vague(command: Do, tool) -> None: ...  # type: ignore[no-untyped-def] # noqa: ANN001


def keyword_only(*, command: Do) -> None: ...


def positional_only(command: Do, tool: Tool, /) -> None: ...


class Class:
    async def method(self, command: Do) -> None: ...


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (empty, r"test_handler.py:\d+\) takes no message; write it like: def empty\(message: Empty\)"),
        (functools.partial(plain, None), r"plain \(.*\) takes no message"),
        (vague, r'test_handler.py:\d+\): parameter "tool" needs an annotation'),
        (keyword_only, r'put "command" in front of the "\*"'),
        (positional_only, 'parameter "tool" is given by its name, but stands in front of the "/"'),
        (Class, "Class.* is a class: to call it makes an instance and runs nothing"),
        (Class.method, r"is a method without an instance; register it below the class, of an instance: Class\(…\).method"),
        (None, "None is no function"),
    ],
)
def test_what_cannot_handle_a_message_is_refused_by_a_sentence(function: Any, says: str) -> None:
    with pytest.raises(DefinitionError, match=says):
        Handler(function)


@pytest.mark.parametrize("wrap", [wrapped, Traced, functools.partial])
async def test_a_handler_behind_a_decorator_of_another_module_is_given_what_it_asks_for(
    wrap: Callable[..., Any], threads: ThreadPoolExecutor
) -> None:
    def handler(
        command: "Do", tool: "Annotated[Tool, 'sharp']", context: "Context | None" = None, other: "Tool | None" = None
    ) -> tuple[Tool, Tool | None, str]:
        assert context is not None
        return tool, other, context.id

    providers, tool = Providers(), Tool()
    providers.put(Tool, tool)
    invoke = await Handler(wrap(handler)).bind(providers, threads)
    assert await invoke(Do(number=1), Context("the id")) == (tool, tool, "the id")


async def test_what_a_partial_has_filled_is_not_provided_over_it(threads: ThreadPoolExecutor) -> None:
    def handler(command: Do, tool: Tool) -> Tool:
        return tool

    providers, mine = Providers(), Tool()
    providers.put(Tool, Tool())
    invoke = await Handler(functools.partial(handler, tool=mine)).bind(providers, threads)
    assert await invoke(Do(number=1), Context("id")) is mine


def test_the_origin_says_where_the_function_stands() -> None:
    assert f"plain ({__file__}:" in Handler(plain).origin


async def test_a_plain_function_that_runs_out_of_time_is_interrupted_in_its_thread(threads: ThreadPoolExecutor) -> None:
    running, interrupted, over = threading.Event(), threading.Event(), threading.Event()

    def spin(command: Do) -> None:
        running.set()
        try:
            while not over.is_set():
                pass
        except BaseException:
            interrupted.set()
            raise

    invoke = await Handler(spin).bind(Providers(), threads)

    async def run(work: Awaitable[Any]) -> None:
        await work

    task = asyncio.ensure_future(run(invoke(Do(number=1), Context("id"))))
    await asyncio.to_thread(running.wait, 5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    was_interrupted = await asyncio.to_thread(interrupted.wait, 3)
    over.set()
    assert was_interrupted


async def test_what_a_synchronous_generator_returns_is_its_result(threads: ThreadPoolExecutor) -> None:
    def both(command: Do) -> Iterator[Done]:
        yield Done(number=command.number)
        return 42

    context = Context("id")
    invoke = await Handler(both).bind(Providers(), threads)
    assert await invoke(Do(number=1), context) == 42
    assert [message for message, _ in context.then] == [Done(number=1)]
