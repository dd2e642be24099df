"""`chappe.testing`: one clock for everything, which no library that stops the clocks of Python can stop."""

from __future__ import annotations

import contextlib
import datetime
import time
from collections.abc import Callable
from typing import Any

import pytest
import time_machine
from freezegun import freeze_time

from chappe import App, Command, Context, Rate, Reject, Retry, Unique, cron, every
from chappe.errors import CommandFailed, DefinitionError, NotFound, ResultTimeout
from chappe.testing import testing

DAY = 86_400.0


class Note(Command, queue="notes"):
    text: str = ""


class Fresh(Command, queue="fresh", ttl=100.0):
    pass


class Once(Command, queue="once", unique=Unique("x", window=60.0)):
    pass


class Later(Command, queue="later", delay=3600.0, retry=Retry(3, delay=60.0, factor=2.0, jitter=0.0)):
    pass


class Paced(Command, queue="paced", rate=Rate("1/m"), timeout=30.0, kill_after=60.0):
    pass


class Sum(Command, queue="sums", results=True):
    a: int


def make() -> tuple[App, list[Any]]:
    app, ran = App("timed"), list[Any]()

    @app.handles(Note, Fresh, Once, Paced)
    def note(command: Command, context: Context) -> None:
        ran.append((command.__spec__.name, context.sent_at))

    @app.handles(Later)
    async def later(command: Later, context: Context) -> None:
        ran.append(context.attempt)
        if context.attempt < 3:
            raise OSError("not yet")

    @app.handles(Sum)
    async def total(command: Sum) -> int:
        return command.a + 1

    return app, ran


def patched(monkeypatch: pytest.MonkeyPatch) -> contextlib.AbstractContextManager[None]:
    """Stop the clocks as a test does that patches them itself."""

    @contextlib.contextmanager
    def patch() -> Any:
        with monkeypatch.context() as patching:
            for name in ("time", "monotonic", "perf_counter"):
                patching.setattr(time, name, lambda: 1_893_456_000.0)
            yield

    return patch()


STOPS: dict[str, Callable[[pytest.MonkeyPatch], contextlib.AbstractContextManager[Any]]] = {
    "freezegun": lambda _: freeze_time("2030-01-01"),
    "freezegun that also stops the event loop": lambda _: freeze_time("2030-01-01", real_asyncio=False),
    "time-machine": lambda _: time_machine.travel(1_893_456_000.0, tick=False),
    "patched by hand": patched,
}


@pytest.fixture(params=STOPS, ids=STOPS)
def stop(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[], contextlib.AbstractContextManager[Any]]:
    return lambda: STOPS[request.param](monkeypatch)


def exercise(app: App, ran: list[Any]) -> None:
    with testing(app) as t:
        t.send([Note(text="a"), Paced()])
        assert t.drain() == 2
        t.send(Later())
        t.drain(to_the_end=True)
        assert ran[-3:] == [1, 2, 3]
        assert app.ask(Sum(a=1)) == 2


def test_a_whole_trial_under_stopped_clocks_comes_to_its_end(stop: Callable[[], Any]) -> None:
    app, ran = make()
    with stop():
        exercise(app, ran)
    exercise(app, ran)


def test_clocks_that_stop_inside_a_trial_stop_nothing_of_it(stop: Callable[[], Any]) -> None:
    app, ran = make()
    with testing(app) as t:
        t.send(Note())
        with stop():
            t.send(Note())
            t.send(Paced())
            assert t.drain() == 3
            assert t.ask(Sum(a=1)) == 2
            t.advance(60)
        t.send(Note())
        assert t.drain() == 1
    assert len(ran) == 4


def test_a_handler_that_does_not_end_is_told_under_stopped_clocks(stop: Callable[[], Any]) -> None:
    import asyncio

    app = App("slow")

    @app.handles(Note)
    async def slow(command: Note) -> None:
        await asyncio.Event().wait()

    with testing(app) as t, stop():
        t.send(Note())
        with pytest.raises(TimeoutError, match="1 handler is still running"):
            t.drain(timeout=0.3)


async def test_an_asynchronous_test_under_stopped_clocks(stop: Callable[[], Any]) -> None:
    app, ran = make()
    with stop():
        async with testing(app) as t:
            await app.asend(Note())
            assert t.drain() == 1
            assert await app.aask(Sum(a=2)) == 3
    assert len(ran) == 1


def test_a_message_expires_by_the_clock_of_the_trial() -> None:
    app, ran = make()
    with testing(app) as t:
        t.send(Fresh())
        t.advance(200)
        t.drain()
        assert ran == []
        assert "expired: 200" in t.dead[0].reason
        t.send(Fresh(), delay=90)
        t.advance(95)
        t.drain()
        assert len(ran) == 1


def test_the_time_of_sending_is_that_of_the_clock() -> None:
    app, ran = make()
    with testing(app) as t:
        t.advance(30 * DAY)
        t.send(Note())
        t.drain()
        assert ran == [("note", t.now)]
        assert t.now > time.time() + 29 * DAY


def test_rates_unique_windows_and_idempotency_keys_follow_the_clock() -> None:
    app, ran = make()
    with testing(app) as t:
        for _ in range(2):
            t.send(Paced())
        t.drain()
        t.advance(60.1)
        t.drain()
        assert len(ran) == 2
        t.send(Once())
        t.drain()
        assert t.send(Once()).outcome == "duplicate"
        t.advance(61)
        assert t.send(Once()).outcome == "stored"
        t.send(Note(), idempotency_key="k")
        assert t.send(Note(), idempotency_key="k").outcome == "duplicate"
        t.advance(25 * 3600)
        assert t.send(Note(), idempotency_key="k").outcome == "stored"


def test_results_are_kept_as_long_as_the_clock_says() -> None:
    app, _ = make()
    with testing(app) as t:
        receipt = t.send(Sum(a=1))
        t.drain()
        assert app.wait_for(app.aresult(receipt.id)) == 2
        t.advance(25 * 3600)
        with pytest.raises(NotFound):
            app.wait_for(app.aresult(receipt.id))


def test_a_command_that_is_handled_here_and_now_has_the_time_of_the_clock() -> None:
    app, seen = App("now"), list[float]()

    class Here(Command, inline=True):
        pass

    @app.handles(Here)
    def here(command: Here, context: Context) -> None:
        seen.append(context.sent_at)
        assert context.age == 0.0

    with testing(app) as t:
        t.advance(DAY)
        app.send(Here())
        assert seen == [t.now]


# --- to the end


def test_to_the_end_runs_over_delays_and_retries() -> None:
    app, ran = make()
    with testing(app) as t:
        began = t.now
        t.send(Later())
        assert t.drain(to_the_end=True) == 3
        assert ran == [1, 2, 3]
        assert t.now == pytest.approx(began + 3600 + 60 + 120)


def test_to_the_end_ends_with_dead_letters_too() -> None:
    app = App("dying")

    @app.handles(Later)
    def fail(command: Later) -> None:
        raise OSError("never")

    with testing(app) as t:
        t.send(Later())
        t.drain(to_the_end=True)
        assert [letter.attempts for letter in t.dead] == [3]


def test_to_the_end_passes_the_next_slots_of_each_schedule() -> None:
    app, ran = make()
    app.schedule(cron("0 4 * * *"), Note(text="daily"))
    app.schedule(every(600), Note(text="often"))
    with testing(app) as t:
        t.send(Later())
        assert t.drain() == 0, "a schedule begins with its next slot"
        t.drain(to_the_end=True)
        assert [note.text for note in t.sent(Note)] == ["often", "daily"] or [note.text for note in t.sent(Note)] == ["daily", "often"]
        t.drain()
        assert len(t.sent(Note)) == 2, "what it passed over is not caught up"
        t.drain(to_the_end=True, slots=3)
        assert sorted(note.text for note in t.sent(Note)) == ["daily"] * 4 + ["often"] * 4
    assert ran[-1] != ran[0]


def test_a_schedule_is_sent_when_the_clock_has_come_to_its_slot() -> None:
    app, _ = make()
    app.schedule(cron("0 4 * * *", "Europe/Paris"), Note(text="daily"))
    with testing(app) as t:
        t.advance(DAY)
        t.drain()
        assert len(t.sent(Note)) == 1
        assert datetime.datetime.fromtimestamp(t.now, datetime.UTC) > datetime.datetime.now(datetime.UTC)


def test_what_sends_itself_again_for_ever_is_told() -> None:
    app = App("endless")

    @app.handles(Note)
    def again(command: Note) -> None:
        app.send(Note(), delay=10)

    with testing(app) as t:
        t.send(Note())
        with pytest.raises(TimeoutError, match=r"t\.advance|still running"):  # the second on a machine that stands still meanwhile
            t.drain(to_the_end=True, timeout=0.5)


# --- what is wrong is said at once


class Missing:
    pass


def test_a_missing_provider_is_an_error_at_once() -> None:
    app, ran = make()

    class Wants(Command, queue="wants"):
        pass

    @app.handles(Wants)
    def wants(command: Wants, missing: Missing) -> None: ...

    with testing(app) as t:
        t.send(Note())
        assert t.drain() == 1, "only who needs it misses it"
        t.send(Wants())
        with pytest.raises(DefinitionError, match="Missing"):
            t.drain()
        with pytest.raises(DefinitionError, match="Missing"):
            t.ask(Wants())
    assert len(ran) == 1


def test_a_provider_that_raises_is_an_error_at_once() -> None:
    app = App("providing")

    @app.provides
    def missing() -> Missing:
        raise ConnectionRefusedError("no database here")

    @app.handles(Note)
    def wants(command: Note, missing: Missing) -> None: ...

    with testing(app) as t:
        t.send(Note())
        with pytest.raises(ConnectionRefusedError, match="no database here"):
            t.drain()


# --- asking


def test_code_under_test_may_ask_without_draining() -> None:
    app, _ = make()

    def code_under_test() -> int:
        return app.ask(Sum(a=40)) + 1

    with testing(app):
        assert code_under_test() == 42


async def test_asynchronous_code_under_test_may_ask_without_draining() -> None:
    app, _ = make()
    async with testing(app):
        assert await app.aask(Sum(a=41)) == 42


def test_asking_for_what_is_delayed_says_so_at_once() -> None:
    app, _ = make()
    with testing(app), pytest.raises(ResultTimeout, match=r"later is delayed.*t\.advance"):
        app.ask(Later())


def test_asking_for_what_dies_raises_its_reason() -> None:
    app = App("dying")

    @app.handles(Sum)
    def total(command: Sum) -> int:
        raise Reject("by zero")

    with testing(app), pytest.raises(CommandFailed, match="by zero"):
        app.ask(Sum(a=1))


def test_after_the_block_an_application_is_as_it_was() -> None:
    app, _ = make()
    before, clock = app.connections.setting, app.bus.clock
    with testing(app):
        assert app.connections.setting is not before
    assert app.connections.setting is before
    assert app.bus.clock is clock


def test_a_budget_that_was_closed_in_one_test_is_open_in_the_next() -> None:
    app = App("closed")
    handled: list[int] = []

    class Call(Command, queue="calls", rate=Rate("100/s", burst=100)):
        number: int

    @app.handles(Call)
    async def call(command: Call, context: Context) -> None:
        handled.append(command.number)
        await context.throttle(900)

    for number in (1, 2):
        with testing(app) as t:
            t.send([Call(number=number), Call(number=0)])
            t.drain()
            assert handled == [1, 2][:number]
