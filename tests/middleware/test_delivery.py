"""The capabilities `priority` and `delay`."""

from chappe import Command
from chappe.bus.draft import Draft
from chappe.middleware.delivery import Delivery

from .wrapped import costs_nothing, published


class Urgent(Command, queue="q", priority=5, delay=2.0):
    pass


class Plain(Command, queue="q"):
    pass


def test_a_publication_has_the_priority_and_delay_of_its_class() -> None:
    publication = published(Delivery(), Urgent())
    assert (publication.priority, publication.delay) == (5, 2.0)


def test_what_the_sender_says_wins() -> None:
    publication = published(Delivery(), Urgent(), Draft("id", priority=9, delay=1.0))
    assert (publication.priority, publication.delay) == (9, 1.0)


def test_messages_without_either_pay_nothing() -> None:
    assert costs_nothing(Delivery(), Plain())
