"""`chappe.testing`: an application in a test, without processes."""

import threading
from typing import Self

import pytest

from chappe import App, Command, CommandFailed, Context, Event, Rate, Reject, ResultTimeout, Retry, replace
from chappe.errors import NotFound
from chappe.testing import testing


class Greet(Command, queue="greetings"):
    name: str


class Greeted(Event):
    name: str


class Flaky(Command, queue="flaky", retry=Retry(3, delay=10.0, factor=1.0, jitter=0.0)):
    pass


class Bundle(Command, queue="bundles", key="{owner}"):
    owner: int
    items: frozenset[str]

    def merge(self, newer: Self) -> Self:
        return replace(self, items=self.items | newer.items)


class Paced(Command, queue="paced", rate=Rate("1/s")):
    number: int


class Mood:
    def __init__(self, word: str) -> None:
        self.word = word


def make() -> tuple[App, list[str]]:
    app, log = App("trial"), list[str]()

    @app.provides
    def mood() -> Mood:
        return Mood("gloomy")

    @app.handles(Greet)
    async def greet(command: Greet, mood: Mood):
        log.append(f"{mood.word} {command.name}")
        yield Greeted(name=command.name)

    @app.on(Greeted)
    def note(event: Greeted) -> None:
        log.append(f"noted {event.name}")

    @app.handles(Flaky)
    def fail(command: Flaky, context: Context) -> str:
        log.append(f"attempt {context.attempt}")
        if context.attempt < 3:
            raise OSError("not yet")
        return "at last"

    @app.handles(Bundle)
    async def bundle(command: Bundle) -> list[str]:
        log.append("".join(sorted(command.items)))
        return sorted(command.items)

    @app.handles(Paced)
    def paced(command: Paced) -> None:
        log.append(str(command.number))

    return app, log


def test_drain_handles_what_is_ready_and_what_follows_from_it() -> None:
    app, log = make()
    with testing(app) as t:
        t.send(Greet(name="Ada"))
        assert log == []
        assert t.drain() == 2
        assert log == ["gloomy Ada", "noted Ada"]
        assert t.drain() == 0


def test_sent_lists_messages_of_one_type_whether_anybody_handled_them() -> None:
    app, _ = make()
    with testing(app) as t:
        t.send(Greet(name="Ada"))
        t.send(Greet(name="Bob"))
        assert t.sent(Greet) == [Greet(name="Ada"), Greet(name="Bob")]
        assert t.sent(Greeted) == []
        t.drain()
        assert t.sent(Greeted) == [Greeted(name="Ada"), Greeted(name="Bob")]


def test_a_merged_message_is_listed_as_what_it_became() -> None:
    app, log = make()
    with testing(app) as t:
        t.send(Bundle(owner=1, items=frozenset("a")))
        t.send(Bundle(owner=1, items=frozenset("b")))
        t.drain()
        assert t.sent(Bundle)[-1].items == {"a", "b"}
        assert log == ["ab"]


def test_a_retry_waits_until_its_time_was_advanced_to() -> None:
    app, log = make()
    with testing(app) as t:
        t.send(Flaky())
        t.drain()
        assert log == ["attempt 1"]
        assert t.depth("flaky") == (0, 1)
        t.advance(9.9)
        assert t.drain() == 0
        t.advance(0.2)
        t.drain()
        assert log == ["attempt 1", "attempt 2"]


def test_delays_are_days_and_take_no_time() -> None:
    app, log = make()
    with testing(app) as t:
        t.send(Greet(name="later"), delay=86_400)
        assert t.drain() == 0
        t.advance(86_401)
        t.drain()
    assert log == ["gloomy later", "noted later"]


def test_a_rate_is_kept_by_the_same_clock() -> None:
    app, log = make()
    with testing(app) as t:
        for number in range(3):
            t.send(Paced(number=number))
        t.drain()
        assert log == ["0"]
        t.advance(1.01)
        t.drain()
        assert len(log) == 2


def test_what_ended_badly_is_in_dead_with_its_reason() -> None:
    app = App("trial")

    @app.handles(Greet)
    def refuse(command: Greet) -> None:
        raise Reject(f"we do not greet {command.name}")

    with testing(app) as t:
        assert t.dead == []
        t.send(Greet(name="Eve"))
        t.drain()
        (letter,) = t.dead
        assert letter.reason == "we do not greet Eve"
        assert letter.queue == "greetings"


def test_ask_drains_and_gives_the_result() -> None:
    app, _ = make()
    with testing(app) as t:
        assert t.ask(Bundle(owner=1, items=frozenset("cab"))) == ["a", "b", "c"]


def test_ask_of_a_command_that_is_retried_later_says_so() -> None:
    app, _ = make()
    with testing(app) as t, pytest.raises(ResultTimeout, match=r"t\.advance"):
        t.ask(Flaky())


def test_ask_of_a_command_that_died_raises_its_reason() -> None:
    app = App("trial")

    @app.handles(Greet)
    def refuse(command: Greet) -> None:
        raise Reject("no")

    with testing(app) as t, pytest.raises(CommandFailed, match="no"):
        t.ask(Greet(name="Eve"))


def test_provide_replaces_what_handlers_are_given_also_after_they_ran() -> None:
    app, log = make()
    with testing(app) as t:
        t.provide(Mood, Mood("sunny"))
        t.send(Greet(name="Ada"))
        t.drain()
        t.provide(Mood, Mood("foggy"))
        t.send(Greet(name="Bob"))
        t.drain()
    assert [line for line in log if "noted" not in line] == ["sunny Ada", "foggy Bob"]


def test_what_was_provided_ends_with_the_block() -> None:
    app, log = make()
    with testing(app) as t:
        t.provide(Mood, Mood("sunny"))
        t.ask(Greet(name="Ada"))
    with testing(app) as t:
        t.ask(Greet(name="Ada"))
    assert [line for line in log if "noted" not in line] == ["sunny Ada", "gloomy Ada"]


def test_each_block_begins_with_empty_queues() -> None:
    app, log = make()
    with testing(app) as t:
        t.send(Greet(name="left behind"))
    with testing(app) as t:
        assert t.drain() == 0
        assert t.sent(Greet) == []
    assert log == []


def test_a_handler_may_use_the_synchronous_verbs_of_its_application() -> None:
    app, log = make()

    class Chain(Command, queue="chain"):
        pass

    @app.handles(Chain)
    def chain(command: Chain) -> None:
        app.send(Greet(name="from a handler"))

    with testing(app) as t:
        t.send(Chain())
        t.drain()
    assert log == ["gloomy from a handler", "noted from a handler"]


def test_a_handler_that_asks_another_needs_a_second_slot() -> None:
    app, _ = make()

    class Outer(Command, queue="outer"):
        pass

    @app.handles(Outer)
    async def outer(command: Outer) -> list[str]:
        return await app.aask(Bundle(owner=7, items=frozenset("x")), timeout=5)

    with testing(app, concurrency=2) as t:
        assert t.ask(Outer()) == ["x"]


def test_drain_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chappe.worker.worker._LAST_WAIT", 0.1)
    app, gate = App("trial"), threading.Event()

    @app.handles(Greet)
    def hang(command: Greet) -> None:
        gate.wait(60)

    with testing(app) as t:
        t.send(Greet(name="x"))
        with pytest.raises(TimeoutError, match="1 handler is still running"):
            t.drain(timeout=0.2)
        gate.set()


def test_an_unknown_queue_is_an_error() -> None:
    app, _ = make()
    with testing(app) as t, pytest.raises(NotFound):
        t.depth("nowhere")


def test_threads_and_files_are_gone_after_the_block() -> None:
    app, _ = make()
    with testing(app) as t:
        t.send(Greet(name="x"))
        t.drain()
        folder = app.settings.path.parent
        assert folder.exists()
    assert not folder.exists()
    assert not [thread.name for thread in threading.enumerate() if thread.name == "chappe-portal"]


async def test_asynchronous_tests_use_async_with() -> None:
    app, log = make()
    async with testing(app) as t:
        await app.asend(Greet(name="Ada"))
        assert t.drain() == 2
    assert log == ["gloomy Ada", "noted Ada"]
