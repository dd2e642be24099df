"""Merging: pending messages of one key become one."""

from typing import Self

import msgspec
import pytest

from chappe import Command, Receipt, replace
from chappe.bus.bus import Bus
from chappe.bus.draft import Draft
from chappe.bus.merging import Merger
from chappe.bus.providers import Providers
from chappe.bus.registry import Registry
from chappe.errors import Rejected
from chappe.messages.envelope import Envelope, Options, Publication, changed
from chappe.middleware.queueing import Queueing


class Sync(Command, queue="sync", key="{house}"):
    house: int
    what: frozenset[str]

    def merge(self, newer: Self) -> Self:
        return replace(self, what=self.what | newer.what)


class Plain(Command, queue="plain"):
    number: int


@pytest.fixture
def merger() -> Merger:
    return Merger(Bus(Registry(), Providers(), (Queueing(),)))


def sync(merger: Merger, identity: str, house: int, *what: str) -> Publication:
    return merger.bus.prepare(Sync(house=house, what=frozenset(what)), Draft(identity))


def body(publication: Publication | Envelope) -> dict[str, object]:
    envelope = publication.envelope if isinstance(publication, Publication) else publication
    found = msgspec.json.decode(envelope.body)
    if "what" in found:
        found["what"] = set(found["what"])
    return found


class Shelf:
    """A broker of one queue that knows pending messages by key, and can be interfered with."""

    def __init__(self) -> None:
        self.pending: dict[str, tuple[int, Envelope]] = {}
        self.calls: list[int] = []
        self.interfere: list[tuple[str, Envelope]] = []

    async def publish(self, publications: list[Publication]) -> list[Receipt]:
        self.calls.append(len(publications))
        receipts: list[Receipt] = []
        if self.interfere and len(self.calls) > 1:
            key, envelope = self.interfere.pop()
            self.pending[key] = (self.pending[key][0] + 1, envelope)
        for p in publications:
            options = p.options or Options()
            found = self.pending.get(options.key or "")
            if not options.merges:
                receipts.append(Receipt(p.envelope.id))
            elif found is None and options.replaces is not None:
                receipts.append(Receipt(p.envelope.id, "pending"))
            elif found is None:
                self.pending[options.key or ""] = (1, p.envelope)
                receipts.append(Receipt(p.envelope.id, "stored", 1))
            elif options.replaces != found[0]:
                receipts.append(Receipt(found[1].id, "pending", found[0], found[1]))
            else:
                self.pending[options.key or ""] = (found[0] + 1, p.envelope)
                receipts.append(Receipt(found[1].id, "merged", found[0] + 1))
        return receipts


async def test_a_second_message_of_a_key_is_merged_into_the_pending_one(merger: Merger) -> None:
    shelf = Shelf()
    (first,) = await merger.publish([sync(merger, "a", 1, "rates")], shelf.publish)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    (second,) = await merger.publish([sync(merger, "b", 1, "texts")], shelf.publish)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    assert (first.outcome, first.id) == ("stored", "a")
    assert (second.outcome, second.id) == ("merged", "a")
    assert body(shelf.pending["1"][1]) == {"house": 1, "what": {"rates", "texts"}}
    assert shelf.pending["1"][1].id == "a"


async def test_a_batch_is_folded_before_it_leaves_and_each_has_its_receipt(merger: Merger) -> None:
    shelf = Shelf()
    batch = [
        sync(merger, "a", 1, "x"),
        merger.bus.prepare(Plain(number=1), Draft("p")),
        sync(merger, "b", 2, "y"),
        sync(merger, "c", 1, "z"),
    ]
    receipts = await merger.publish(batch, shelf.publish)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    assert [(r.id, r.outcome) for r in receipts] == [("a", "stored"), ("p", "stored"), ("b", "stored"), ("a", "merged")]
    assert shelf.calls == [3]
    assert body(shelf.pending["1"][1]) == {"house": 1, "what": {"x", "z"}}


async def test_a_merge_is_repeated_while_others_change_the_pending_message(merger: Merger) -> None:
    shelf = Shelf()
    await merger.publish([sync(merger, "a", 1, "x")], shelf.publish)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    shelf.calls.clear()
    shelf.interfere = [("1", sync(merger, "a", 1, "x", "meanwhile").envelope)]
    (receipt,) = await merger.publish([sync(merger, "b", 1, "y")], shelf.publish)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    assert receipt.outcome == "merged"
    assert body(shelf.pending["1"][1])["what"] == {"x", "y", "meanwhile"}
    assert len(shelf.calls) == 3


async def send(merger: Merger, shelf: Shelf, identity: str, *what: str) -> int:
    """Send one message of key 1 and say how many calls that took."""
    before = len(shelf.calls)
    await merger.publish([sync(merger, identity, 1, *what)], shelf.publish)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    return len(shelf.calls) - before


async def test_from_the_third_message_of_a_pending_key_on_one_call_is_enough(merger: Merger) -> None:
    shelf = Shelf()
    assert [await send(merger, shelf, "abcd"[n], str(n)) for n in range(4)] == [1, 2, 1, 1]
    assert body(shelf.pending["1"][1])["what"] == {"0", "1", "2", "3"}


async def test_what_was_remembered_as_pending_and_runs_by_now_is_not_merged_with(merger: Merger) -> None:
    shelf = Shelf()
    for identity in "abc":
        await send(merger, shelf, identity, identity)
    shelf.pending.clear()  # it began to run
    assert await send(merger, shelf, "d", "new") == 2
    assert body(shelf.pending["1"][1]) == {"house": 1, "what": {"new"}}
    assert shelf.pending["1"][1].id == "d"
    shelf.pending.clear()
    assert await send(merger, shelf, "e", "newer") == 1, "a message that found nothing pending leaves nothing to remember"


async def test_what_another_sender_changed_meanwhile_is_merged_with_as_it_is_now(merger: Merger) -> None:
    shelf = Shelf()
    for identity in "abc":
        await send(merger, shelf, identity, identity)
    shelf.pending["1"] = (99, sync(merger, "a", 1, "a", "b", "c", "theirs").envelope)
    assert await send(merger, shelf, "d", "mine") == 2
    assert body(shelf.pending["1"][1])["what"] == {"a", "b", "c", "theirs", "mine"}


async def test_only_what_was_pending_is_published_again(merger: Merger) -> None:
    shelf = Shelf()
    await merger.publish([sync(merger, "a", 1, "x")], shelf.publish)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    shelf.calls.clear()
    await merger.publish([merger.bus.prepare(Plain(number=1), Draft("p")), sync(merger, "b", 1, "y")], shelf.publish)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    assert shelf.calls == [2, 1]


async def test_all_merged_ids_travel_so_that_every_asker_finds_its_result(merger: Merger) -> None:
    seen: list[Publication] = []

    async def publish(publications: list[Publication]) -> list[Receipt]:
        seen.extend(publications)
        return [Receipt(p.envelope.id) for p in publications]

    await merger.publish([sync(merger, "a", 1, "x"), sync(merger, "b", 1, "y"), sync(merger, "c", 1, "z")], publish)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    (only,) = seen
    assert only.options is not None
    assert only.options.merged_ids == ("a", "b", "c")


async def test_a_merge_that_adds_up_counts_each_message_once_however_often_it_is_repeated(merger: Merger) -> None:
    class Count(Command, queue="counts", key="{name}"):
        name: str
        times: int = 1

        def merge(self, newer: Self) -> Self:
            return replace(self, times=self.times + newer.times)

    shelf = Shelf()
    for identity in ("a", "b"):
        shelf.calls.clear()
        if identity == "b":
            shelf.interfere = [("x", merger.bus.prepare(Count(name="x", times=10), Draft("a")).envelope)]
        await merger.publish([merger.bus.prepare(Count(name="x"), Draft(identity))], shelf.publish)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    assert body(shelf.pending["x"][1]) == {"name": "x", "times": 11}


def test_a_yielded_message_is_merged_with_what_is_pending(merger: Merger) -> None:
    pending = sync(merger, "old", 1, "x").envelope
    originals = [sync(merger, "new", 1, "y"), sync(merger, "other", 2, "z")]
    result = merger.merged(originals, originals, [Receipt("old", "pending", 7, pending), Receipt("other")])
    assert [p.envelope.id for p in result] == ["old", "other"]
    assert body(result[0])["what"] == {"x", "y"}
    assert result[0].options is not None and result[0].options.replaces == 7
    assert result[1].options is not None and result[1].options.replaces is None


def test_the_larger_priority_and_the_shorter_delay_win(merger: Merger) -> None:
    a, b = sync(merger, "a", 1, "x"), sync(merger, "b", 1, "y")
    a = msgspec.structs.replace(a, priority=5, delay=10.0)
    b = msgspec.structs.replace(b, priority=1, delay=2.0, options=changed(b.options, tracked=True))
    (merged,) = merger.fold([a, b])
    assert (merged.priority, merged.delay) == (5, 2.0)
    assert merged.options is not None and merged.options.tracked


class Picky(Command, queue="picky", key="{n}"):
    n: int

    def merge(self, newer: Self) -> Self:
        raise KeyError("price")


def test_a_merge_that_fails_is_a_refusal_that_names_the_message_and_the_error(merger: Merger) -> None:
    a, b = merger.bus.prepare(Picky(n=1), Draft("a")), merger.bus.prepare(Picky(n=1), Draft("b"))
    with pytest.raises(Rejected, match=r"picky a is pending and cannot be merged with: KeyError: 'price'"):
        merger.fold([a, b])


async def test_a_call_whose_merge_fails_among_its_own_messages_stores_nothing(merger: Merger) -> None:
    shelf = Shelf()
    batch = [merger.bus.prepare(Plain(number=1), Draft("p")), *(merger.bus.prepare(Picky(n=1), Draft(identity)) for identity in "ab")]
    with pytest.raises(Rejected):
        await merger.publish(batch, shelf.publish)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    assert shelf.calls == []


async def test_a_merge_that_fails_with_what_is_pending_ends_a_call_whose_other_messages_are_stored(merger: Merger) -> None:
    shelf = Shelf()
    first, second = (merger.bus.prepare(Picky(n=1), Draft(identity)) for identity in "ab")
    await merger.publish([first], shelf.publish)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    shelf.calls.clear()
    with pytest.raises(Rejected, match=r"KeyError: 'price'; .*others of this call are stored: 1"):
        await merger.publish([merger.bus.prepare(Plain(number=1), Draft("p")), second], shelf.publish)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    assert shelf.calls == [2]


def test_what_merge_makes_must_be_decodable(merger: Merger) -> None:
    class Bad(Command, queue="bad", key="{n}"):
        n: int

        def merge(self, newer: Self) -> Self:
            return msgspec.structs.replace(self, n="not a number")  # type: ignore[type-var] # pyright: ignore[reportArgumentType]

    a, b = merger.bus.prepare(Bad(n=1), Draft("a")), merger.bus.prepare(Bad(n=1), Draft("b"))
    with pytest.raises(Rejected, match="cannot be merged"):
        merger.fold([a, b])


class Open(Command, queue="sync", key="{house}", forbid_unknown_fields=False):
    house: int
    what: frozenset[str] = frozenset()
    renamed: int = msgspec.field(name="from", default=0)

    def merge(self, newer: Self) -> Self:
        return replace(self, what=self.what | newer.what)


@pytest.mark.parametrize("kind", [Sync, Open])
async def test_fields_of_another_release_in_a_pending_message_stay_in_the_merged_one_as_they_are(
    merger: Merger, kind: type[Sync] | type[Open]
) -> None:
    shelf = Shelf()
    await merger.publish([merger.bus.prepare(kind(house=1, what=frozenset("a")), Draft("a"))], shelf.publish)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    version, envelope = shelf.pending["1"]
    newer = envelope.body[:-1] + b',"since":{"day":1.50,"big":123456789012345678901234567890}}'
    shelf.pending["1"] = (version, msgspec.structs.replace(envelope, body=newer))
    for text in "bc":
        (receipt,) = await merger.publish([merger.bus.prepare(kind(house=1, what=frozenset(text)), Draft(text))], shelf.publish)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
        assert receipt.outcome == "merged"
    assert b'"since":{"day":1.50,"big":123456789012345678901234567890}' in shelf.pending["1"][1].body
    assert body(shelf.pending["1"][1])["what"] == {"a", "b", "c"}
