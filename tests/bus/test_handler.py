"""Handlers of every colour: `async def` or `def`, returning or yielding."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from chappe import Command, Context, Event
from chappe.bus.handler import Handler
from chappe.bus.providers import Providers
from chappe.errors import DefinitionError


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


@pytest.mark.parametrize("function", [asynchronous_yields, synchronous_yields])
async def test_what_a_handler_yields_goes_to_then(function: Callable[..., Any], threads: ThreadPoolExecutor) -> None:
    context = Context("id")
    invoke = await Handler(function).bind(Providers(), threads)
    assert await invoke(Do(number=1), context) is None
    assert context.then == [Done(number=1), Done(number=2)]


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


def test_a_handler_that_takes_nothing_is_refused_with_an_example() -> None:
    def empty() -> None: ...

    with pytest.raises(DefinitionError, match="takes no message; write it like"):
        Handler(empty)


def test_a_parameter_without_annotation_is_refused() -> None:
    def vague(command: Do, tool) -> None: ...  # type: ignore[no-untyped-def] # noqa: ANN001

    with pytest.raises(DefinitionError, match='parameter "tool" needs an annotation'):
        Handler(vague)


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
