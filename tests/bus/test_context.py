"""The context: what a handler may know about its delivery."""

import threading

import pytest

from chappe import Command, Context, Event, InvalidMessage
from chappe.bus.context import NO_PORTS, Ports
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

    ports = Ports(mark=NO_PORTS.mark, marks=NO_PORTS.marks, progress=progress, take=NO_PORTS.take)
    await Context("id", ports=ports).progress(3, 10, "pages")
    assert told == [("id", 3, 10, "pages")]


async def test_without_a_store_nothing_is_remembered_and_nothing_fails() -> None:
    context = Context("id")
    await context.progress(1, 2)
    assert await context.ports.marks("id") == {}
    assert await context.ports.mark("id", "handler", []) is False
    assert await context.ports.take("budget", 1.0, 1) == 0.0


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
