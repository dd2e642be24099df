"""The context: what a handler may know about its delivery."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from chappe import Command, Context, Event, InvalidMessage
from chappe.bus.context import Ports
from chappe.engines.contract.results import Start
from chappe.errors import DefinitionError, TooLate


class Told(Event):
    n: int


class Now(Command, inline=True):
    pass


def test_the_idempotency_key_is_the_same_in_every_attempt() -> None:
    first, second = Context("id", attempt=1), Context("id", attempt=2)
    assert first.idempotency_key() == second.idempotency_key() == "id"
    assert first.idempotency_key("charge") == "id:charge"


async def test_progress_goes_to_the_store_under_the_messages_id() -> None:
    told: list[tuple[str, int, int, str]] = []

    async def progress(message_id: str, done: int, total: int, text: str) -> None:
        told.append((message_id, done, total, text))

    ports = Ports(progress=progress)
    await Context("id", ports=ports).progress(3, 10, "pages")
    assert told == [("id", 3, 10, "pages")]


async def test_without_a_store_nothing_is_remembered_and_nothing_fails() -> None:
    context = Context("id")
    await context.progress(1, 2)
    assert await context.ports.marks("id") == {}
    assert await context.ports.mark("id", "handler", []) is False
    assert await context.ports.take("budget", 1.0, 1) == Start(granted=True, wait=0.0)


def test_what_is_sent_leaves_with_its_options_and_says_what_caused_it() -> None:
    context = Context("id", correlation_id="first")
    context.send(Told(n=1), delay=5.0, priority=3, idempotency_key="k")
    context.send([Told(n=2), Told(n=3)])
    assert [message for message, _ in context.then] == [Told(n=1), Told(n=2), Told(n=3)]
    draft = context.then[0][1]
    assert (draft.delay, draft.priority, draft.correlation_id) == (5.0, 3, "first")
    assert draft.options is not None
    assert draft.options.idempotency_key == "told:k"


def test_what_cannot_be_sent_is_refused_where_it_is_sent_and_nothing_of_it_leaves() -> None:
    context = Context("id")
    with pytest.raises(InvalidMessage, match="is no message"):
        context.send([Told(n=1), "text"])  # type: ignore[list-item]
    with pytest.raises(InvalidMessage, match="delay"):
        context.send(Told(n=1), delay=-1.0)
    with pytest.raises(DefinitionError, match="Now is inline"):
        context.send([Told(n=1), Now()])
    with pytest.raises(DefinitionError, match="one idempotency_key"):
        context.send([Told(n=1), Told(n=2)], idempotency_key="k")
    assert context.then == []


def test_after_the_handlers_have_ended_sending_is_an_error_and_not_lost() -> None:
    context = Context("id")
    context.send(Told(n=1))
    context.end()
    with pytest.raises(TooLate, match="the handlers of id have ended"):
        context.send(Told(n=2))
    assert len(context.then) == 1


def test_many_threads_send_without_losing_any() -> None:
    context = Context("id")
    threads = [threading.Thread(target=lambda: [context.send(Told(n=n)) for n in range(200)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(context.then) == 1600


class Shown:
    """A store that is told of progress on its own event loop only."""

    def __init__(self) -> None:
        self.home = asyncio.get_running_loop()
        self.told: list[tuple[int, int, str]] = []

    async def progress(self, _: str, done: int, total: int, text: str) -> None:
        assert asyncio.get_running_loop() is self.home
        await asyncio.sleep(0)
        self.told.append((done, total, text))

    def context(self) -> Context:
        return Context("id", ports=Ports(progress=self.progress, loop=self.home))


async def test_in_a_thread_progress_is_shown_when_it_returns() -> None:
    store = Shown()

    def handler(context: Context) -> list[tuple[int, int, str]]:
        context.progress(1, 10)
        context.progress(2, 10, "pages")
        return list(store.told)

    assert await asyncio.to_thread(handler, store.context()) == [(1, 10, ""), (2, 10, "pages")]


async def test_in_an_event_loop_of_a_thread_progress_is_awaited() -> None:
    store = Shown()

    async def inside(context: Context) -> list[tuple[int, int, str]]:
        await context.progress(1, 10)
        return list(store.told)

    assert await asyncio.to_thread(lambda context: asyncio.run(inside(context)), store.context()) == [(1, 10, "")]


async def test_progress_that_nobody_awaits_is_shown_all_the_same(recwarn: pytest.WarningsRecorder) -> None:
    store = Shown()
    context = store.context()
    context.progress(1, 10)
    context.progress(2, 10)
    while len(store.told) < 2:
        await asyncio.sleep(0)
    assert store.told == [(1, 10, ""), (2, 10, "")]
    assert not recwarn.list


@pytest.mark.parametrize("wrong", [(0.5, 1, ""), (1, 2**63, ""), ("1", 2, ""), (1, 2, 3)])
def test_progress_that_could_not_be_shown_is_refused(wrong: Any) -> None:
    progress: Callable[..., Any] = Context("id").progress
    with pytest.raises(TypeError, match="takes two whole numbers and a text"):
        progress(*wrong)


def test_without_a_store_or_a_loop_progress_is_nothing() -> None:
    Context("id").progress(1, 2)
