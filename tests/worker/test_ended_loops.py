"""Whatever ends the event loop of a worker, or cancels what is in it, ends the attempt that did it, and nothing else."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest

from chappe import App, Command, Retry
from chappe.bus.loop import run
from chappe.failures import first_line
from chappe.messages.codec import decoder
from chappe.testing import testing


class Do(Command, queue="do", retry=Retry(3, delay=0.0, jitter=0.0)):
    what: str


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """Have tasks whose error nobody saw tell it now: Python 3.11 cannot write a traceback while it parses (SystemError in ast.parse)."""
    yield
    gc.collect()


async def leave() -> None:
    sys.exit(3)


async def interrupt() -> None:
    raise KeyboardInterrupt


async def for_ever() -> None:
    await asyncio.Event().wait()


async def awaited() -> None:
    await asyncio.create_task(leave())


async def interrupted() -> None:
    await asyncio.create_task(interrupt())


async def gathered() -> None:
    await asyncio.gather(leave(), for_ever())


async def grouped() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(leave())
        group.create_task(for_ever())


async def forgotten() -> None:
    task = asyncio.create_task(leave())
    await for_ever()
    task.cancel()


async def called_soon() -> None:
    asyncio.get_running_loop().call_soon(sys.exit, 3)
    await for_ever()


async def called_later() -> None:
    asyncio.get_running_loop().call_later(0.001, sys.exit, 3)
    await for_ever()


async def done_callback() -> None:
    future = asyncio.get_running_loop().create_future()
    future.add_done_callback(lambda _: sys.exit(3))
    future.set_result(None)
    await for_ever()


async def stopped() -> None:
    asyncio.get_running_loop().stop()
    await for_ever()


async def stopped_later() -> None:
    loop = asyncio.get_running_loop()
    loop.call_soon_threadsafe(loop.stop)
    await for_ever()


async def closed() -> None:
    asyncio.get_running_loop().close()


async def all_cancelled() -> None:
    for task in asyncio.all_tasks():
        task.cancel()
    await asyncio.sleep(0)


async def others_cancelled_and_awaited() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


async def cancelled_itself() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await for_ever()


async def cleaned_up() -> None:
    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            sys.exit(3)

    async for _ in numbers():
        break
    gc.collect()
    await for_ever()


BY_ITSELF: dict[str, tuple[Callable[[], Awaitable[None]], str]] = {
    f.__name__: (f, line)
    for f, line in {
        awaited: "SystemExit: 3",
        interrupted: "KeyboardInterrupt",
        gathered: "SystemExit: 3",
        grouped: "SystemExit: 3",
        forgotten: "SystemExit: 3",
        called_soon: "SystemExit: 3",
        called_later: "SystemExit: 3",
        done_callback: "SystemExit: 3",
        stopped: "SystemExit: a handler stopped the event loop of its worker",
        stopped_later: "SystemExit: a handler stopped the event loop of its worker",
        closed: "RuntimeError: Cannot close a running event loop",
        all_cancelled: "RuntimeError: a handler can cancel only what it started",
        others_cancelled_and_awaited: "RuntimeError: a handler can cancel only what it started",
        cancelled_itself: "CancelledError: a task or future that was waited for was cancelled",
        cleaned_up: "SystemExit: 3",
    }.items()
}


def application(ran: list[str], gate: threading.Event) -> App:
    app = App("ended")

    @app.handles(Do)
    async def do(command: Do) -> None:
        ran.append(command.what)
        if command.what == "wait":
            while not gate.is_set():
                await asyncio.sleep(0.001)
        if command.what in BY_ITSELF:
            await BY_ITSELF[command.what][0]()

    return app


def test_whatever_ends_the_loop_is_a_failed_attempt_of_the_message_that_did_it_and_of_no_other() -> None:
    ran, gate = list[str](), threading.Event()
    with testing(application(ran, gate), concurrency=4) as t:
        t.send(Do(what="wait"))
        for what in BY_ITSELF:
            t.send(Do(what=what))
            t.send(Do(what="fine"))
        draining = threading.Thread(target=lambda: t.drain(timeout=60.0))
        draining.start()
        while draining.is_alive() and (len(ran) < 1 + 4 * len(BY_ITSELF) or t.depth("do") != (0, 0)):
            draining.join(0.01)
        gate.set()
        draining.join(60.0)
        while t.depth("do") != (0, 0):
            t.drain(timeout=30.0)
        dead = {decode(letter.envelope.body).what: letter for letter in t.dead}
        assert t.depth("do") == (0, 0)
        assert len(t.dead) == len(BY_ITSELF)
    assert {what: ran.count(what) for what in ran} == {**dict.fromkeys(BY_ITSELF, 3), "fine": len(BY_ITSELF), "wait": 1}
    lines = {what: first_line(letter.error) for what, letter in dead.items()}
    assert {what: line for what, line in lines.items() if not line.startswith(BY_ITSELF[what][1])} == {}
    assert {(letter.reason, letter.attempts) for letter in dead.values()} == {("attempts spent", 3)}


decode = decoder(Do)


class Handled(Command, queue="handled", retry=Retry(3, delay=0.0, jitter=0.0)):
    what: str


@pytest.mark.parametrize("what", ["caught", "swallowed", "unawaited", "unreferenced"])
def test_a_message_that_gets_over_it_is_done_once_and_its_slot_lives_on(what: str) -> None:
    app, ran = App("handled"), list[str]()

    @app.handles(Handled)
    async def handle(command: Handled) -> None:
        ran.append(command.what)
        match command.what:
            case "caught":
                try:
                    await asyncio.create_task(leave())
                except SystemExit:
                    await asyncio.sleep(0)
            case "swallowed":
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
                try:
                    await for_ever()
                except asyncio.CancelledError:
                    pass
            case "unawaited":
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
            case "unreferenced":
                threading.Thread(target=asyncio.get_running_loop().call_soon_threadsafe, args=(sys.exit, 3)).start()
            case _:
                pass

    with testing(app) as t:
        for one in (what, "fine", what, "fine"):
            t.send(Handled(what=one))
        while t.depth("handled") != (0, 0):
            t.drain(timeout=30.0)
        assert t.dead == []
        t.send(Handled(what="fine"))
        while t.depth("handled") != (0, 0):
            t.drain(timeout=30.0)
    assert ran == [what, "fine", what, "fine", "fine"]


class Threaded(Command, queue="threaded", retry=Retry(2, delay=0.0, jitter=0.0), timeout=30.0):
    pass


class Provided:
    pass


def test_an_exit_that_a_thread_asks_for_ends_its_message() -> None:
    app, ran, loops = App("threaded"), list[str](), list[asyncio.AbstractEventLoop]()

    @app.handles(Handled)
    async def remember(command: Handled) -> None:
        loops.append(asyncio.get_running_loop())

    @app.handles(Threaded)
    def handle(command: Threaded) -> None:
        ran.append("threaded")
        loops[0].call_soon_threadsafe(sys.exit, 3)
        while True:
            threading.Event().wait(0.001)

    with testing(app) as t:
        t.send(Handled(what="first"))
        t.send(Threaded())
        while t.depth("threaded") != (0, 0):
            t.drain(timeout=30.0)
        (letter,) = t.dead
    assert len(ran) == 2
    assert first_line(letter.error) == "SystemExit: 3"


def test_a_provider_that_exits_costs_no_slot_and_no_attempt() -> None:
    app, made = App("provided"), list[int]()

    @app.provides
    async def provide() -> Provided:
        made.append(1)
        if len(made) == 1:
            sys.exit(3)
        return Provided()

    @app.handles(Handled)
    async def handle(command: Handled, provided: Provided) -> None: ...

    with testing(app) as t:
        t.send(Handled(what="first"))
        while t.depth("handled") != (0, 1):
            t.drain(timeout=30.0)
        t.advance(10.0)
        while t.depth("handled") != (0, 0):
            t.drain(timeout=30.0)
        assert t.dead == []


class Now(Command, inline=True):
    what: str


def run_now(ran: list[str]) -> App:
    app = App("now")

    @app.handles(Now)
    async def now(command: Now) -> str:
        ran.append(command.what)
        if command.what in BY_ITSELF:
            await BY_ITSELF[command.what][0]()
        return "done"

    return app


@pytest.mark.parametrize("what", sorted(BY_ITSELF.keys() - {"all_cancelled", "others_cancelled_and_awaited"}))  # there are no others
def test_whatever_ends_the_loop_is_raised_where_an_inline_command_was_sent_and_the_next_one_is_handled(what: str) -> None:
    ran = list[str]()
    app = run_now(ran)
    with testing(app):
        with pytest.raises(BaseException) as caught:
            app.ask(Now(what=what))
        assert BY_ITSELF[what][1].startswith(type(caught.value).__name__)
        assert app.ask(Now(what="fine")) == "done"
    assert ran == [what, "fine"]


@pytest.mark.parametrize("what", sorted(BY_ITSELF.keys() - {"all_cancelled"}))  # it is one of them itself
def test_a_program_in_our_loop_goes_on_after_whatever_an_inline_command_does_to_it(what: str) -> None:
    app = run_now([])

    async def ask() -> str:
        try:
            return await app.aask(Now(what=what))
        except BaseException as error:  # as the gateway does, whose tasks are of one request
            return type(error).__name__

    async def main() -> list[str]:
        asked = [await asyncio.create_task(ask()) for _ in range(2)]
        assert await app.aask(Now(what="fine")) == "done"
        return asked

    assert run(main()) == [BY_ITSELF[what][1].partition(":")[0]] * 2


def test_a_thread_that_stops_the_loop_of_the_synchronous_verbs_keeps_nobody_waiting() -> None:
    app = App("stopping")

    @app.handles(Now)
    async def now(_: Now) -> str:
        loop = asyncio.get_running_loop()
        stopping = threading.Thread(target=loop.call_soon_threadsafe, args=(loop.stop,))
        stopping.start()
        stopping.join()
        await asyncio.sleep(0)
        return "done"

    with testing(app):
        assert [app.ask(Now(what="stop")) for _ in range(2)] == ["done"] * 2


def test_an_inline_command_that_gets_over_what_it_left_behind_leaves_no_trace_in_the_task_that_sent_it() -> None:
    app = App("over")

    @app.handles(Now)
    async def now(_: Now) -> str:
        try:
            await forgotten()
        except asyncio.CancelledError:
            await asyncio.sleep(0)
        return "done"

    async def main() -> tuple[str, int]:
        task = asyncio.current_task()
        assert task is not None
        return await app.aask(Now(what="over")), task.cancelling()

    assert run(main()) == ("done", 0)


class Outer(Command, queue="outer", retry=Retry(1)):
    pass


def test_an_inline_command_that_a_synchronous_handler_sends_fails_it_by_what_it_left_behind() -> None:
    app = run_now([])

    @app.handles(Outer)
    def outer(_: Outer) -> None:
        app.ask(Now(what="forgotten"))

    with testing(app) as t:
        t.send(Outer())
        t.drain(timeout=60.0)
        (letter,) = t.dead
    assert first_line(letter.error) == "SystemExit: 3"


class Inline(Command, inline=True):
    pass


def test_an_inline_command_that_exits_raises_where_it_was_sent_and_the_next_one_is_handled() -> None:
    app = App("inline")

    @app.handles(Inline)
    async def handle(command: Inline) -> str:
        if not done:
            done.append(True)
            await leave()
        return "done"

    done = list[bool]()
    with testing(app):
        with pytest.raises(SystemExit):
            app.ask(Inline())
        assert app.ask(Inline()) == "done"
