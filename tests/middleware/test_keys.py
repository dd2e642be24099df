"""The capabilities `key`, `merge`, `fair`, `unique` and `results`."""

from typing import Any, Self

import pytest

from chappe import Command, Unique
from chappe.bus.draft import Draft
from chappe.messages.envelope import Options
from chappe.middleware.keys import Fairness, Keys, Tracking, Uniqueness

from .wrapped import costs_nothing, published


class Keyed(Command, queue="q", key="{house}"):
    house: int


class Merging(Command, queue="q", key="h{house}"):
    house: int

    def merge(self, newer: Self) -> Self:
        return newer


class Shared(Command, queue="q", fair="{user}"):
    user: str


class Once(Command, queue="q", unique=Unique("{house}", window=60.0)):
    house: int


class Kept(Command, queue="q", results=True):
    pass


class Plain(Command, queue="q"):
    pass


def test_a_key_is_filled_from_the_message() -> None:
    assert published(Keys(), Keyed(house=7)).options == Options(key="7")


def test_a_message_that_merges_says_so_and_names_itself() -> None:
    assert published(Keys(), Merging(house=7), Draft("me")).options == Options(key="h7", merges=True, merged_ids=("me",))


def test_a_unique_key_belongs_to_its_message_type() -> None:
    assert published(Uniqueness(), Once(house=7)).options == Options(unique="once:7", unique_for=60.0)


def test_results_are_kept_for_those_who_ask_for_it() -> None:
    assert published(Tracking(), Kept()).options == Options(tracked=True)


def test_options_that_were_there_stay() -> None:
    draft = Draft("id", options=Options(idempotency_key="k"))
    assert published(Keys(), Keyed(house=7), draft).options == Options(key="7", idempotency_key="k")


@pytest.mark.parametrize("middleware", [Keys(), Fairness(), Uniqueness(), Tracking()])
def test_other_messages_pay_nothing(middleware: Any) -> None:
    assert costs_nothing(middleware, Plain())


def test_a_tenant_is_filled_from_the_message_and_stands_in_its_envelope_beside_what_was_there() -> None:
    draft = Draft("id", headers={"traceparent": "t"})
    assert published(Fairness(), Shared(user="ada"), draft).options == Options(tenant="ada")
    assert draft.headers == {"traceparent": "t", "chappe-tenant": "ada"}
