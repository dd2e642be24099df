"""The capabilities `priority`, `delay`, `key`, `merge`, `fair`, `unique` and `results`."""

from typing import Self

from chappe import Command, Unique
from chappe.bus.draft import Draft
from chappe.messages.envelope import Options
from chappe.middleware.queueing import Queueing

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


class Urgent(Command, queue="q", priority=5, delay=2.0):
    pass


class Plain(Command, queue="q"):
    pass


def test_a_key_is_filled_from_the_message() -> None:
    assert published(Queueing(), Keyed(house=7)).options == Options(key="7")


def test_a_message_that_merges_says_so_and_names_itself() -> None:
    assert published(Queueing(), Merging(house=7), Draft("me")).options == Options(key="h7", merges=True, merged_ids=("me",))


def test_a_unique_key_belongs_to_its_message_type() -> None:
    assert published(Queueing(), Once(house=7)).options == Options(unique="once:7", unique_for=60.0)


def test_results_are_kept_for_those_who_ask_for_it() -> None:
    assert published(Queueing(), Kept()).options == Options(tracked=True)


def test_options_that_were_there_stay() -> None:
    draft = Draft("id", options=Options(idempotency_key="k"))
    assert published(Queueing(), Keyed(house=7), draft).options == Options(key="7", idempotency_key="k")


def test_other_messages_pay_nothing() -> None:
    assert costs_nothing(Queueing(), Plain())


def test_a_tenant_is_filled_from_the_message_and_stands_in_its_envelope_beside_what_was_there() -> None:
    draft = Draft("id", headers={"traceparent": "t"})
    assert published(Queueing(), Shared(user="ada"), draft).options == Options(tenant="ada")
    assert draft.headers == {"traceparent": "t", "chappe-tenant": "ada"}


def test_a_publication_has_the_priority_and_delay_of_its_class() -> None:
    publication = published(Queueing(), Urgent())
    assert (publication.priority, publication.delay) == (5, 2.0)


def test_what_the_sender_says_wins() -> None:
    publication = published(Queueing(), Urgent(), Draft("id", priority=9, delay=1.0))
    assert (publication.priority, publication.delay) == (9, 1.0)
