"""Topology: what passes a binding, and what two declarations may not disagree on."""

from typing import Literal

import pytest

from chappe import Exchange, bind
from chappe.errors import InvalidCapability, TopologyConflict
from chappe.messages.topology import Binding, Queue, match, passes, refuse_conflict, refuse_other_kind, type_of


@pytest.mark.parametrize(
    ("kind", "key", "routing_key", "passing"),
    [
        ("fanout", "whatever", "x.y", True),
        ("direct", "a.b", "a.b", True),
        ("direct", "a.*", "a.b", False),
        ("direct", "", "", True),
        ("topic", "a.b", "a.b", True),
        ("topic", "a.b", "a.c", False),
        ("topic", "a.*", "a.b", True),
        ("topic", "a.*", "a", False),
        ("topic", "a.*", "a.b.c", False),
        ("topic", "*", "a", True),
        ("topic", "*", "", False),
        ("topic", "#", "", True),
        ("topic", "#", "a.b.c", True),
        ("topic", "a.#", "a", True),
        ("topic", "a.#", "a.b.c", True),
        ("topic", "a.#", "b", False),
        ("topic", "#.c", "a.b.c", True),
        ("topic", "#.c", "c", True),
        ("topic", "#.c", "c.d", False),
        ("topic", "a.#.z", "a.z", True),
        ("topic", "a.#.z", "a.b.c.z", True),
        ("topic", "a.#.z", "a.b.c", False),
        ("topic", "#.*", "", False),
        ("topic", "#.*", "a", True),
        ("topic", "*.#.*", "a", False),
        ("topic", "*.#.*", "a.b", True),
        ("topic", "#.#", "a", True),
        ("topic", "a*", "ab", False),
        ("topic", "a.b", "a.b.", False),
        ("topic", "", "", True),
        ("topic", "A", "a", False),
    ],
)
def test_what_passes_a_binding(kind: Literal["direct", "topic", "fanout"], key: str, routing_key: str, passing: bool) -> None:
    assert passes(kind, key, routing_key) is passing


def test_a_queue_is_bound_by_exchange_and_key() -> None:
    queue = bind("push.ical", "channels:push.ical.*", "audit:#", "channels:push.ical.*", origin="shop")
    assert queue == Queue("push.ical", (Binding("audit", "#"), Binding("channels", "push.ical.*")), "shop")
    assert bind("plain").bindings == ()
    assert bind("news", "fanout").bindings == (Binding("fanout", ""),)


def test_the_same_bindings_in_another_order_are_no_conflict() -> None:
    refuse_conflict(Queue("q", (Binding("a"), Binding("b"))), Queue("q", (Binding("b"), Binding("a"))))


def test_a_conflict_names_both_origins_and_both_keys() -> None:
    with pytest.raises(TopologyConflict) as caught:
        refuse_conflict(bind("on.bids", "events:bid.*", origin="shop.bids"), bind("on.bids", "events:bid.raised", origin="audit.log"))
    said = str(caught.value)
    for part in ('"on.bids"', "shop.bids", "audit.log", '"events:bid.*"', '"events:bid.raised"'):
        assert part in said


def test_an_exchange_keeps_its_kind_and_archive() -> None:
    refuse_other_kind(Exchange("x", "topic"), Exchange("x", "topic"))
    with pytest.raises(TopologyConflict, match='"x" is topic .* declared again as fanout'):
        refuse_other_kind(Exchange("x", "topic"), Exchange("x", "fanout"))
    with pytest.raises(TopologyConflict, match="archive 5 s"):
        refuse_other_kind(Exchange("x", archive=5), Exchange("x"))


@pytest.mark.parametrize(
    ("patterns", "found"),
    [(["*"], ["push.alpine", "push.ical", "compute"]), (["push.*"], ["push.alpine", "push.ical"]), (["compute"], ["compute"]), (["*.ical", "comp*"], ["push.ical", "compute"]),
     (["push"], []), ([], []), (["push?ical"], [])],
)  # fmt: skip
def test_queues_are_chosen_by_wildcards(patterns: list[str], found: list[str]) -> None:
    assert match(patterns, ["push.alpine", "push.ical", "compute"]) == found


@pytest.mark.parametrize(
    ("pattern", "name", "fits"),
    [("*", "", True), ("a*", "a", True), ("a*a", "a", False), ("a*a", "aa", True), ("*b*", "abc", True), ("a*b*c", "a.c.b.c", True), ("a*b*c", "acb", False),
     ("ab", "ab", True), ("ab", "abc", False), ("*.x", "a.b.x", True), ("**", "a", True), ("a.b", "axb", False)],
)  # fmt: skip
def test_a_wildcard_stands_for_anything(pattern: str, name: str, fits: bool) -> None:
    assert (match([pattern], [name]) == [name]) is fits


def test_many_wildcards_take_no_time() -> None:
    assert match(["*a" * 100 + "*b"], ["a" * 255] * 100) == []


def test_a_message_without_a_type_gets_that_of_its_binding_or_else_of_its_queue() -> None:
    exchanges = {"shop": Exchange("shop"), "all": Exchange("all", "fanout")}
    queue = bind("q", Binding("shop", "order.*", "order"), "shop:refund.*", Binding("all", "", "anything"), type="unknown")
    assert type_of(queue, exchanges, "shop", "order.made") == "order"
    assert type_of(queue, exchanges, "shop", "refund.made") == "unknown"
    assert type_of(queue, exchanges, "all", "whatever") == "anything"
    assert type_of(queue, exchanges, "elsewhere", "order.made") == "unknown"
    assert type_of(bind("q"), exchanges, "", "q") == ""


def test_a_quorum_queue_cannot_be_other_than_durable() -> None:
    with pytest.raises(InvalidCapability, match='durable=False needs kind="classic"'):
        bind("q", durable=False)
    assert not bind("q", kind="classic", durable=False).durable


def test_what_only_rabbitmq_knows_of_an_exchange_or_gives_a_type_is_no_conflict_here() -> None:
    refuse_other_kind(Exchange("x"), Exchange("x", durable=False))
    refuse_conflict(bind("q", "x:a"), bind("q", Binding("x", "a", "order")))
