"""Acks, nacks and returned messages find their publications, in whatever order and however many at once."""

from __future__ import annotations

import random

from pika import BasicProperties

from chappe.engines.rabbitmq.confirms import Batch, Confirms, Outgoing
from chappe.errors import BrokerUnavailable

DEADLINE = 60.0


def encoded(**properties: object) -> bytes:
    return b"".join(BasicProperties(**properties).encode())  # pyright: ignore[reportArgumentType] - names of properties


def put(confirms: Confirms, text: str, *, key: str = "k", waits: float = DEADLINE, **properties: object) -> Batch:
    message = Outgoing("x", key, text.encode(), encoded(**properties))
    batch = Batch([message], waits)
    confirms.add(batch, 0)
    return batch


def give_back(confirms: Confirms, text: str, *, key: str = "k", **properties: object) -> bool:
    return confirms.give_back("NO_ROUTE", "x", key, text.encode(), encoded(**properties))


def ends(*batches: Batch) -> list[str]:
    return ["open" if (error := outcome(batch)) is batch else type(error).__name__ if error else "stored" for batch in batches]


def outcome(batch: Batch) -> Exception | Batch | None:
    return batch.answered.result()[0] if batch.answered.done() else batch


async def test_a_single_confirmation_ends_its_own_publication_only() -> None:
    confirms = Confirms()
    batches = [put(confirms, str(n)) for n in range(4)]
    confirms.settle(3, multiple=False, stored=True)
    confirms.settle(1, multiple=False, stored=False)
    assert ends(*batches) == ["Unconfirmed", "open", "stored", "open"]
    assert len(confirms) == 2


async def test_a_multiple_confirmation_ends_all_up_to_it_that_are_open() -> None:
    confirms = Confirms()
    batches = [put(confirms, str(n)) for n in range(5)]
    confirms.settle(2, multiple=False, stored=False)
    confirms.settle(4, multiple=True, stored=True)
    assert ends(*batches) == ["stored", "Unconfirmed", "stored", "stored", "open"]


async def test_any_order_of_confirmations_ends_each_publication_once() -> None:
    chance = random.Random(7)
    for _ in range(200):
        confirms = Confirms()
        batches: list[Batch] = []
        waiting: set[int] = set()
        for _ in range(chance.randrange(1, 60)):
            if not waiting or chance.random() < 0.5:
                batches.append(put(confirms, "same"))
                waiting.add(len(batches))
            else:
                tag, multiple = chance.choice(sorted(waiting)), chance.random() < 0.3
                confirms.settle(tag, multiple=multiple, stored=True)
                waiting -= {one for one in waiting if one == tag or (multiple and one < tag)}
            assert {n for n, batch in enumerate(batches, 1) if not batch.answered.done()} == waiting
            assert len(confirms) == len(waiting)


async def test_a_message_that_comes_back_is_found_among_others_with_its_id() -> None:
    confirms = Confirms()
    batches = [put(confirms, text, message_id="one") for text in "abc"]
    assert give_back(confirms, "b", message_id="one")
    confirms.settle(3, multiple=True, stored=True)
    assert ends(*batches) == ["stored", "Unroutable", "stored"]
    assert 'exchange "x", routing key "k": NO_ROUTE' in str(outcome(batches[1]))


async def test_of_equal_messages_as_many_fail_as_came_back() -> None:
    confirms = Confirms()
    batches = [put(confirms, "same", message_id="one") for _ in range(5)]
    assert give_back(confirms, "same", message_id="one")
    assert give_back(confirms, "same", message_id="one")
    confirms.settle(5, multiple=True, stored=True)
    assert sorted(ends(*batches)) == ["Unroutable"] * 2 + ["stored"] * 3
    assert not give_back(confirms, "same", message_id="one")


async def test_messages_that_differ_in_a_header_only_are_told_apart_even_if_rabbitmq_adds_another() -> None:
    confirms = Confirms()
    red, blue = put(confirms, "same", headers={"colour": "red"}), put(confirms, "same", headers={"colour": "blue"})
    assert give_back(confirms, "same", headers={"colour": "blue"})
    assert ends(red, blue) == ["open", "Unroutable"]
    stamped = put(confirms, "other", headers={"colour": "red"})
    assert give_back(confirms, "other", headers={"colour": "red", "timestamp_in_ms": 7})
    assert ends(red, stamped) == ["open", "Unroutable"]


async def test_what_is_not_confirmed_in_time_is_unconfirmed_and_a_late_answer_changes_nothing() -> None:
    confirms = Confirms()
    early, late = put(confirms, "early", waits=0.2), put(confirms, "late", waits=0.4)
    await early.answered
    assert ends(early) == ["Unconfirmed"]
    assert "within 0.2 s" in str(outcome(early))
    await late.answered
    assert ends(late) == ["Unconfirmed"]
    confirms.settle(2, multiple=True, stored=True)
    assert len(confirms) == 0
    again = put(confirms, "again")
    confirms.settle(3, multiple=False, stored=True)
    assert ends(early, late, again) == ["Unconfirmed", "Unconfirmed", "stored"]


async def test_what_may_wait_for_less_time_than_what_was_published_before_is_failed_in_its_own_time() -> None:
    confirms = Confirms()
    patient, hasty = put(confirms, "patient"), put(confirms, "hasty", waits=0.2)
    await hasty.answered
    assert ends(patient, hasty) == ["open", "Unconfirmed"]


async def test_a_batch_is_answered_with_its_last_message_and_tells_what_became_of_each() -> None:
    confirms = Confirms()
    messages = [Outgoing("x", "k", text.encode(), encoded(message_id=text)) for text in "abc"]
    batch = Batch(messages, DEADLINE)
    for number in range(3):
        confirms.add(batch, number)
    assert give_back(confirms, "b", message_id="b")
    confirms.settle(1, multiple=False, stored=False)
    confirms.settle(2, multiple=False, stored=True)
    assert not batch.answered.done()
    confirms.settle(3, multiple=False, stored=True)
    assert [type(one).__name__ for one in batch.answered.result()] == ["Unconfirmed", "Unroutable", "NoneType"]


async def test_who_stops_waiting_does_not_disturb_the_others() -> None:
    confirms = Confirms()
    batches = [put(confirms, str(n)) for n in range(3)]
    batches[1].answered.cancel()
    confirms.settle(3, multiple=True, stored=True)
    assert ends(batches[0], batches[2]) == ["stored", "stored"]
    assert batches[1].answered.cancelled()


async def test_when_the_channel_is_gone_each_open_publication_fails_with_the_error_for_its_exchange() -> None:
    confirms = Confirms()
    stored, open_ = put(confirms, "a"), put(confirms, "b")
    confirms.settle(1, multiple=False, stored=True)
    confirms.fail(lambda exchange: BrokerUnavailable(f"gone from {exchange}"))
    assert ends(stored, open_) == ["stored", "BrokerUnavailable"]
    assert len(confirms) == 0
    assert str(outcome(open_)) == "gone from x"


async def test_a_refused_message_says_where_it_was_to_go() -> None:
    confirms = Confirms()
    batch = put(confirms, "a", key="push")
    confirms.settle(1, multiple=False, stored=False)
    assert 'exchange "x", routing key "push"' in str(outcome(batch))
