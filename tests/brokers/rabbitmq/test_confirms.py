"""Acks, nacks and returned messages find their publications, in whatever order and however many at once."""

from __future__ import annotations

import asyncio
import random

import pytest
from pika import BasicProperties

from noria.brokers.rabbitmq.confirms import Confirms
from noria.errors import BrokerUnavailable, Unconfirmed, Unroutable

DEADLINE = 60.0


def put(confirms: Confirms, text: str, *, key: str = "k", **properties: object) -> asyncio.Future[None]:
    return confirms.add("x", key, text.encode(), BasicProperties(**properties))  # pyright: ignore[reportArgumentType] - names of properties


def give_back(confirms: Confirms, text: str, *, key: str = "k", **properties: object) -> bool:
    return confirms.give_back("NO_ROUTE", "x", key, text.encode(), BasicProperties(**properties))  # pyright: ignore[reportArgumentType] - see above


def ends(*futures: asyncio.Future[None]) -> list[str]:
    return [("open" if not f.done() else type(f.exception()).__name__ if f.exception() else "stored") for f in futures]


async def test_a_single_confirmation_ends_its_own_publication_only() -> None:
    confirms = Confirms(DEADLINE)
    futures = [put(confirms, str(n)) for n in range(4)]
    confirms.settle(3, multiple=False, stored=True)
    confirms.settle(1, multiple=False, stored=False)
    assert ends(*futures) == ["Unconfirmed", "open", "stored", "open"]
    assert len(confirms) == 2


async def test_a_multiple_confirmation_ends_all_up_to_it_that_are_open() -> None:
    confirms = Confirms(DEADLINE)
    futures = [put(confirms, str(n)) for n in range(5)]
    confirms.settle(2, multiple=False, stored=False)
    confirms.settle(4, multiple=True, stored=True)
    assert ends(*futures) == ["stored", "Unconfirmed", "stored", "stored", "open"]


async def test_any_order_of_confirmations_ends_each_publication_once() -> None:
    chance = random.Random(7)
    for _ in range(200):
        confirms = Confirms(DEADLINE)
        futures: list[asyncio.Future[None]] = []
        waiting: set[int] = set()
        for _ in range(chance.randrange(1, 60)):
            if not waiting or chance.random() < 0.5:
                futures.append(put(confirms, "same"))
                waiting.add(len(futures))
            else:
                tag, multiple = chance.choice(sorted(waiting)), chance.random() < 0.3
                confirms.settle(tag, multiple=multiple, stored=True)
                waiting -= {one for one in waiting if one == tag or (multiple and one < tag)}
            assert {n for n, future in enumerate(futures, 1) if not future.done()} == waiting
            assert len(confirms) == len(waiting)


async def test_a_message_that_comes_back_is_found_among_others_with_its_id() -> None:
    confirms = Confirms(DEADLINE)
    futures = [put(confirms, text, message_id="one") for text in "abc"]
    assert give_back(confirms, "b", message_id="one")
    confirms.settle(3, multiple=True, stored=True)
    assert ends(*futures) == ["stored", "Unroutable", "stored"]
    with pytest.raises(Unroutable, match='exchange "x", routing key "k": NO_ROUTE'):
        futures[1].result()


async def test_of_equal_messages_as_many_fail_as_came_back() -> None:
    confirms = Confirms(DEADLINE)
    futures = [put(confirms, "same", message_id="one") for _ in range(5)]
    assert give_back(confirms, "same", message_id="one")
    assert give_back(confirms, "same", message_id="one")
    confirms.settle(5, multiple=True, stored=True)
    assert sorted(ends(*futures)) == ["Unroutable"] * 2 + ["stored"] * 3
    assert not give_back(confirms, "same", message_id="one")


async def test_messages_that_differ_in_a_header_only_are_told_apart_even_if_rabbitmq_adds_another() -> None:
    confirms = Confirms(DEADLINE)
    red, blue = put(confirms, "same", headers={"colour": "red"}), put(confirms, "same", headers={"colour": "blue"})
    assert give_back(confirms, "same", headers={"colour": "blue"})
    assert ends(red, blue) == ["open", "Unroutable"]
    stamped = put(confirms, "other", headers={"colour": "red"})
    assert give_back(confirms, "other", headers={"colour": "red", "timestamp_in_ms": 7})
    assert ends(red, stamped) == ["open", "Unroutable"]
    with pytest.raises(Unroutable):
        blue.result()
    with pytest.raises(Unroutable):
        stamped.result()


async def test_what_is_not_confirmed_in_time_is_unconfirmed_and_a_late_answer_changes_nothing() -> None:
    confirms = Confirms(0.8)
    early = put(confirms, "early")
    await asyncio.sleep(0.6)
    late = put(confirms, "late")
    with pytest.raises(Unconfirmed, match="within 0.8 s"):
        await early
    assert ends(late) == ["open"]
    with pytest.raises(Unconfirmed):
        await late
    confirms.settle(2, multiple=True, stored=True)
    assert len(confirms) == 0
    again = put(confirms, "again")
    confirms.settle(3, multiple=False, stored=True)
    await again


async def test_who_stops_waiting_does_not_disturb_the_others() -> None:
    confirms = Confirms(DEADLINE)
    futures = [put(confirms, str(n)) for n in range(3)]
    futures[1].cancel()
    confirms.settle(3, multiple=True, stored=True)
    assert futures[0].result() is futures[2].result() is None
    assert futures[1].cancelled()


async def test_when_the_channel_is_gone_each_open_publication_fails_with_the_error_for_its_exchange() -> None:
    confirms = Confirms(DEADLINE)
    stored, open_ = put(confirms, "a"), put(confirms, "b")
    confirms.settle(1, multiple=False, stored=True)
    confirms.fail(lambda exchange: BrokerUnavailable(f"gone from {exchange}"))
    assert ends(stored, open_) == ["stored", "BrokerUnavailable"]
    assert len(confirms) == 0
    with pytest.raises(BrokerUnavailable, match="gone from x"):
        await open_


async def test_a_refused_message_says_where_it_was_to_go() -> None:
    confirms = Confirms(DEADLINE)
    future = put(confirms, "a", key="push")
    confirms.settle(1, multiple=False, stored=False)
    with pytest.raises(Unconfirmed, match='exchange "x", routing key "push"'):
        await future
