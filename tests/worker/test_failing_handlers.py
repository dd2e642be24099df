"""Whatever is raised while a message is handled is a failed attempt of that message, and of no other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from chappe import App, Command, Context, Reject, Retry, RetryLater, Snooze
from chappe.bus.bus import CallNext, Handle, Middleware
from chappe.errors import CommandFailed
from chappe.failures import first_line
from chappe.messages.capabilities import MessageSpec
from chappe.messages.codec import decoder
from chappe.middleware.defaults import defaults
from chappe.testing import testing


class Own(BaseException):
    pass


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


RAISED: dict[str, Callable[[], BaseException]] = {
    "generator exit": GeneratorExit,
    "stop": lambda: StopIteration(5),
    "async stop": StopAsyncIteration,
    "cancelled": asyncio.CancelledError,
    "interrupt": KeyboardInterrupt,
    "exit": lambda: SystemExit(2),
    "own": lambda: Own("own"),
    "mute": Mute,
    "group": lambda: BaseExceptionGroup("group", [Own("own"), ValueError("a")]),
    "assertion": AssertionError,
}


def made(what: str) -> BaseException:
    return RAISED[what]()


class Do(Command, queue="do", retry=Retry(3, delay=0.0, jitter=0.0)):
    what: str

    def fail(self) -> None:
        ran.append(self.what)
        if self.what in RAISED:
            raise made(self.what)


class Merged(Command, queue="merged", key="all"):
    what: str

    def merge(self, newer: Merged) -> Merged:
        raise made(self.what)


class Other(Command, queue="other"):
    what: str


ran: list[str] = []


async def asynchronous(command: Do) -> None:
    command.fail()


def threaded(command: Do) -> None:
    command.fail()


async def async_generator(command: Do) -> AsyncIterator[Command]:
    yield Other(what=command.what)
    command.fail()


def generator(command: Do) -> Iterator[Command]:
    yield Other(what=command.what)
    command.fail()


async def in_a_task(command: Do) -> None:
    async def fail() -> None:
        command.fail()

    if command.what in ("exit", "interrupt"):  # in a task they end the event loop
        command.fail()
    else:
        await asyncio.create_task(fail())


async def merging(command: Do) -> AsyncIterator[Command]:
    ran.append(command.what)
    yield Other(what=command.what)
    if command.what in RAISED:
        yield Merged(what=command.what)
        yield Merged(what=command.what)


async def nothing(_: Do) -> None: ...


async def inner(message: Do, context: Context, call_next: CallNext) -> Any:
    await call_next(message, context)
    message.fail()


class Outer(Middleware):
    """Fails outside of Retries, where it is called and not awaited."""

    def wrap_handle(self, spec: MessageSpec, call_next: Handle) -> Handle:
        def around(message: Any, context: Context) -> Any:
            message.fail()
            return call_next(message, context)

        return around


def application(place: str) -> App:
    app = App("failing", middleware=[Outer(), *defaults()] if place == "outer" else None)
    if place == "inner":
        app.use(inner)
    app.handles(Do)(globals().get(place, nothing) if place != "inner" else nothing)
    app.knows(Other, Merged)
    return app


@pytest.mark.parametrize("place", ["asynchronous", "threaded", "async_generator", "generator", "in_a_task", "merging", "inner", "outer"])
def test_whatever_is_raised_anywhere_follows_the_retry_policy(place: str) -> None:
    ran.clear()
    with testing(application(place), concurrency=2) as t:
        t.send([Do(what=what) for what in (*RAISED, "fine", "fine")])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        while t.depth("do") != (0, 0):
            t.drain(timeout=30.0)
        letters = t.dead
        assert t.depth("do") == (0, 0)
        assert t.depth("merged") == (0, 0)
        sent = [other.what for other in t.sent(Other)]
    assert {what: ran.count(what) for what in ran} == {**dict.fromkeys(RAISED, 3), "fine": 2}
    assert sorted(what for what in sent if what != "fine") == [], "what a failed attempt yielded was sent"
    assert sorted(decode(letter.envelope.body).what for letter in letters) == sorted(RAISED)
    assert {(letter.reason, letter.attempts) for letter in letters} == {("attempts spent", 3)}
    assert all(first_line(letter.error) and len(letter.history) == 2 for letter in letters)


decode = decoder(Do)


class Asked(Command, queue="asked", retry=Retry(3, delay=0.0, jitter=0.0)):
    what: str


def test_the_asker_the_letter_and_its_history_tell_the_same_line() -> None:
    app = App("asked")

    @app.handles(Asked)
    async def asked(command: Asked) -> None:
        raise ValueError("no address\n[SQL: SELECT 1]\n(Background on this error at: https://sqlalche.me/e/20/e3q8)")

    with testing(app) as t:
        with pytest.raises(CommandFailed, match="attempts spent: ValueError: no address$"):
            t.ask(Asked(what="sql"), timeout=30.0)
        (letter,) = t.dead
    assert letter.error is not None
    summary, place, _, traceback = letter.error.split("\n")[:4]
    assert (summary, traceback) == ("ValueError: no address", "Traceback (most recent call last):")
    assert place.startswith("  at tests.worker.test_failing_handlers:")
    assert "(in " not in place, "the handler itself has raised it"
    assert "[SQL: SELECT 1]" in letter.error
    assert [first_line(error) for _, _, error in letter.history] == ["ValueError: no address"] * 2


VERDICTS: dict[str, tuple[Callable[[], list[Exception]], str]] = {
    "reject": (lambda: [Reject("never")], "never"),
    "reject beside": (lambda: [ValueError("a"), Reject("never")], "never"),
    "nested": (lambda: [ExceptionGroup("inner", [Reject("never")]), RetryLater("busy")], "never"),
    "later": (lambda: [RetryLater("busy", after=0.0), Snooze(0.0)], "attempts spent: busy"),
    "mixed": (lambda: [RetryLater("busy", after=0.0), KeyError("b")], "attempts spent"),
}


def test_a_verdict_in_a_task_group_is_the_verdict() -> None:
    app, runs = App("asked"), list[str]()

    @app.handles(Asked)
    async def asked(command: Asked) -> None:
        runs.append(command.what)

        async def fail() -> None:
            await asyncio.sleep(0)
            errors = VERDICTS[command.what][0]()
            raise errors[0] if len(errors) == 1 else ExceptionGroup("inside", errors)

        async with asyncio.TaskGroup() as group:
            group.create_task(fail())

    with testing(app) as t:
        for what in VERDICTS:
            t.send(Asked(what=what))
        while t.depth("asked") != (0, 0):
            t.drain(timeout=30.0)
        letters = [letter.reason for letter in t.dead]
    assert sorted(letters) == sorted(reason for _, reason in VERDICTS.values())
    assert {what: runs.count(what) for what in VERDICTS} == {"reject": 1, "reject beside": 1, "nested": 1, "later": 3, "mixed": 3}


def test_a_reason_of_many_lines_is_one_line_and_the_rest_is_kept() -> None:
    app = App("asked")

    @app.handles(Asked)
    async def asked(command: Asked) -> None:
        raise Reject("no such customer\nsee \x1b[31mthe list")

    with testing(app) as t:
        with pytest.raises(CommandFailed, match="failed: no such customer$"):
            t.ask(Asked(what="reject"), timeout=30.0)
        (letter,) = t.dead
    assert letter.reason == "no such customer"
    text, _, place = str(letter.error).rpartition("\n")
    assert text == "no such customer\nsee \\x1b[31mthe list"
    assert place.startswith("  at tests.worker.test_failing_handlers:")


class Built(Command, queue="built"):
    what: str

    def __post_init__(self) -> None:
        if self.what in RAISED and built:
            raise made(self.what)


built: list[bool] = []


def test_a_message_whose_own_check_raises_anything_is_undecodable_and_never_run() -> None:
    app, runs = App("built"), list[str]()

    @app.handles(Built)
    async def handle(command: Built) -> None:
        runs.append(command.what)

    with testing(app) as t:
        for what in (*RAISED, "fine"):
            t.send(Built(what=what))
        built.append(True)
        while t.depth("built") != (0, 0):
            t.drain(timeout=30.0)
        built.clear()
        reasons = [letter.reason for letter in t.dead]
    assert reasons == ["undecodable"] * len(RAISED)
    assert runs == ["fine"]


class Odd(Reject):
    def __init__(self, code: int) -> None:
        self.code = code  # and nothing of ours


class OddSnooze(Snooze):
    def __init__(self) -> None: ...


class Broken(RetryLater):
    def __init__(self) -> None: ...

    def __getattribute__(self, name: str) -> Any:
        if name == "after":
            raise OSError("no clock")
        return super().__getattribute__(name)


@pytest.mark.parametrize(("raised", "ready", "delayed", "dead"), [(Odd(4), 0, 0, 1), (OddSnooze(), 0, 1, 0), (Broken(), 0, 0, 1)])
def test_a_verdict_of_the_applications_own_making_leaves_no_message_running(raised: Exception, ready: int, delayed: int, dead: int) -> None:
    app = App("odd")

    @app.handles(Do)
    def do(_: Do) -> None:
        raise raised

    with testing(app) as t:
        t.send(Do(what="odd"))
        t.drain()
        assert t.depth("do") == (ready, delayed)
        assert len(t.dead) == dead
