"""Several events of one publication in one row of the archive: none is missed, and a damaged one is known."""

from __future__ import annotations

import msgspec

from chappe.engines.file.archiving import Archived, events_of, rows
from chappe.engines.file.bodies import HEADER
from chappe.engines.file.seal import seal
from chappe.engines.file.wire import Posted
from chappe.messages.envelope import Envelope


def event(name: str, exchange: str = "news", size: int = 10, *, has_file: bool = False) -> Archived:
    headers = {HEADER: f"{'0' * 32} 1 1"} if has_file else {}
    envelope = msgspec.msgpack.encode(Envelope(name, "t", b"" if has_file else b"x" * size, headers=headers))
    return Posted(msgspec.Raw(envelope), f"key.{name}", exchange), seal(envelope)


def sizes(events: list[Archived]) -> list[int]:
    return [len(events_of(seq, key, identity, envelope, heads)) for seq, _, _, key, identity, envelope, _, heads in rows(events, 0, 1.0)]


def test_events_of_a_row_come_out_as_they_went_in_with_numbers_behind_the_end() -> None:
    events = [event(str(n)) for n in range(5)]
    ((seq, at, exchange, key, identity, envelope, has_file, heads),) = rows(events, 37, 2.5)
    assert (seq, at, exchange, has_file) == (42, 2.5, "news", None)
    found = events_of(seq, key, identity, envelope, heads)
    assert found == [(38 + n, p.routing_key, p.message_id, sealed) for n, (p, sealed) in enumerate(events)]


def test_one_event_is_a_row_without_a_list() -> None:
    one = event("a")
    ((seq, *_, key, identity, envelope, _, heads),) = rows([one], 0, 1.0)
    assert heads is None
    assert events_of(seq, key, identity, envelope, heads) == [(1, "key.a", "a", one[1])]


def test_a_row_ends_where_another_exchange_begins_or_it_has_much() -> None:
    assert sizes([event("a"), event("b"), event("c", "other"), event("d"), event("e")]) == [2, 1, 2]
    assert sizes([event(str(n)) for n in range(300)]) == [128, 128, 44]
    assert sizes([event(str(n), size=30_000) for n in range(5)]) == [2, 2, 1]
    assert sizes([event("a", size=100_000), event("b", size=100_000), event("c")]) == [1, 1, 1]


def test_an_event_whose_body_is_a_file_has_a_row_by_which_the_file_is_found() -> None:
    found = rows([event("a"), event("b", has_file=True), event("c"), event("d")], 0, 1.0)
    assert [(row[0], row[6], row[7] is None) for row in found] == [(1, None, True), (2, 1, True), (4, None, False)]


def test_a_row_whose_list_the_disk_changed_is_one_event_in_the_place_of_the_last() -> None:
    ((seq, _, _, key, identity, envelope, _, heads),) = rows([event("a"), event("b")], 0, 1.0)
    assert heads is not None
    for damaged in ("", "[", "[]", heads.replace("]]", "1]]"), heads.replace('"a"', "7")):
        assert events_of(seq, key, identity, envelope, damaged) == [(2, "key.a", "a", envelope)]
