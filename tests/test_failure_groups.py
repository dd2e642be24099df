"""Dead letters grouped by their cause."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, cast

import msgspec
import pytest

from chappe.engines.contract.fleet import Desired, EngineStatus, Overview, QueueStatus
from chappe.engines.contract.letters import Letter
from chappe.engines.contract.store import Store
from chappe.errors import InvalidMessage, Rejected
from chappe.failure_groups import FailureGroups, act_on, cause_of, edited
from chappe.messages.envelope import Envelope

PLACED = "ValueError: {text}\n  at shop.prices:parse line {line} (in shop.orders:order): return int(text)\n\nTraceback (most recent call last):\n"


def placed(text: str = "a", line: int = 4) -> str:
    return PLACED.format(text=text, line=line)


SAME = [
    ("failed", placed("no number: 'a'"), "attempts spent", placed("no number: 'b'")),
    ("failed", placed(line=4), "failed", placed(line=400)),
    ("no house 12", "no house 12\n  at a:b line 1: raise Reject(text)", "no house 13", "no house 13\n  at a:b line 2: raise Reject(text)"),
    ("busy", "busy\n  at a:b line 1: raise RetryLater(text)", "slow", "slow\n  at a:b line 1: raise RetryLater(text)"),
    ("invalid", "ValidationError: Expected `int` - at `$.a[3]`", "invalid", "ValidationError: Expected `int` - at `$.a[17]`"),
    ("expired", None, "expired", None),
    ("no house 0192e4a7-7d0c-7f6e-8f00-0123456789ab", None, "no house 0192e4a8-aaaa-7f6e-8f00-0123456789ab", None),
    ("killed", '3 workers died; worker "a" (process 4242)', "killed", '3 workers died; worker "b" (process 17)'),
]
OTHERS = [
    placed(),
    placed().replace("ValueError", "KeyError"),
    placed().replace("shop.prices:parse", "shop.prices:other"),
    placed().replace("shop.orders:order", "shop.orders:refund"),
    placed().replace("int(text)", "float(text)"),
    placed().replace("ValueError: a", "ExceptionGroup: g (1 sub-exception)").replace("\n\n", "\n  KeyError: 'b'\n\n"),
    placed().replace("ValueError: a", "ExceptionGroup: g (1 sub-exception)").replace("\n\n", "\n  TypeError: b\n\n"),
    "ValueError: a",
    "ValueError: b",
    None,
]


@pytest.mark.parametrize(("reason", "error", "other_reason", "other_error"), SAME)
def test_what_differs_from_one_message_to_the_next_is_not_part_of_the_cause(
    reason: str, error: str | None, other_reason: str, other_error: str | None
) -> None:
    assert cause_of("order", "orders", reason, error).fingerprint == cause_of("order", "orders", other_reason, other_error).fingerprint


def test_another_type_queue_class_place_or_handler_is_another_cause() -> None:
    causes = [cause_of("order", "orders", "failed", error) for error in OTHERS]
    causes += [cause_of("refund", "orders", "failed", placed()), cause_of("order", "others", "failed", placed())]
    assert len({cause.fingerprint for cause in causes}) == len(causes)


class Kept:
    """A store with letters in memory, which counts what it is asked."""

    def __init__(self) -> None:
        self.kept: dict[int, Letter] = {}
        self.waiting: dict[int, Letter] = {}
        self.numbers = itertools.count(1)
        self.read = 0
        self.said: list[Desired] = []
        self.refused: set[int] = set()

    def die(self, error: str, queue: str = "orders", at: float = 1000.0) -> int:
        number = next(self.numbers)
        self.kept[number] = Letter(number, queue, "failed", error, 3, at, Envelope(str(number), "order", b'{"a": 1, "b": 2}'))
        return number

    async def letters(self, queue: str | None = None, *, after: int = 0, limit: int = 100) -> list[Letter]:
        found = list(itertools.islice((letter for number, letter in sorted(self.kept.items()) if number > after), limit))
        self.read += len(found)
        return found

    async def failing(self, *, after: int = 0, limit: int = 100) -> list[Letter]:
        return list(itertools.islice((letter for number, letter in sorted(self.waiting.items()) if number > after), limit))

    def fail(self, id: str, error: str, at: float = 1000.0) -> None:
        number = next(self.numbers)
        self.waiting[number] = Letter(number, "orders", "", error, 1, at, Envelope(id, "order", b"{}"))

    async def overview(self) -> Overview:
        dead: dict[str, int] = {}
        for letter in self.kept.values():
            dead[letter.queue] = dead.get(letter.queue, 0) + 1
        return Overview(EngineStatus("x"), [QueueStatus(name, (), "", 0, 0, 0, count, 0) for name, count in dead.items()], [], [])

    async def desired(self, *, after: int = 0, every: bool = False, limit: int = 1000) -> list[Desired]:
        return [one for one in self.said if one.number > after]

    async def retry_letters(self, numbers: Sequence[int]) -> int:
        if taken := self.refused & set(numbers):
            raise Rejected(f"letter {min(taken)} is refused")
        return len([self.kept.pop(number) for number in numbers if number in self.kept])


@pytest.fixture
def store() -> Any:
    return Kept()


async def counts(groups: FailureGroups, store: Any) -> list[int]:
    await groups.refresh(cast("Store", store))
    return sorted(len(group.numbers) for group in groups.groups())


async def test_many_failures_of_few_causes_are_few_groups_and_each_letter_is_read_once(store: Kept) -> None:
    for number in range(3000):
        store.die(placed(f"{number}").replace("shop.prices", f"shop.prices{number % 3}"))
    groups = FailureGroups()
    assert await counts(groups, store) == [1000, 1000, 1000]
    store.die(placed("again"))
    assert await counts(groups, store) == [1, 1000, 1000, 1000]
    assert store.read == 3001


async def test_all_is_read_again_where_others_took_letters_away_but_not_more_often_than_it_costs_little(store: Kept) -> None:
    now = 0.0
    groups = FailureGroups(lambda: now)
    numbers = [store.die(placed()) for _ in range(5)]
    assert await counts(groups, store) == [5]
    del store.kept[numbers[2]]
    assert await counts(groups, store) == [4]
    groups.forget([numbers[0]])
    del store.kept[numbers[0]]
    read = store.read
    assert await counts(groups, store) == [3]
    assert store.read == read, "what this gateway took away itself is known"


async def test_a_resolved_failure_that_happens_again_is_open_and_an_ignored_one_stays_so(store: Kept) -> None:
    store.die(placed(), at=100.0)
    groups = FailureGroups()
    await groups.refresh(cast("Store", store))
    (group,) = groups.groups()
    said = [Desired(1, f"failure:{group.cause.fingerprint}", value, "anne", 200.0) for value in ("resolved", "ignored")]
    assert [group.state(one) for one in (None, *said)] == ["open", "resolved", "ignored"]
    store.die(placed(), at=300.0)
    store.said = [said[0]]
    await groups.refresh(cast("Store", store))
    assert group.state(groups.said_of(group.cause.fingerprint)) == "open"
    assert [group.state(one) for one in said] == ["open", "ignored"]
    assert group.occurrences() == [(0.0, 2)]


async def test_what_is_refused_holds_nothing_else_up(store: Kept) -> None:
    numbers = [store.die(placed()) for _ in range(9)]
    store.refused = {numbers[4], numbers[7]}
    told = await act_on(cast("Store", store), numbers, "retry")
    assert (told.done, len(told.gone), told.refused) == (7, 7, ["letter 5 is refused", "letter 8 is refused"])
    assert set(store.kept) == store.refused


def test_an_edit_leaves_the_other_fields_as_they_are_in_json_and_messagepack() -> None:
    body: dict[str, Any] = {"a": 1, "b": {"c": None}}
    for content_type, encode, decode in [
        ("application/json", msgspec.json.encode, msgspec.json.decode),
        ("application/msgpack", msgspec.msgpack.encode, msgspec.msgpack.decode),
    ]:
        letter = Letter(1, "q", "failed", None, 1, 0.0, Envelope("m", "order", encode(body), content_type=content_type))
        assert decode(edited(letter, {"a": 2})) == {"a": 2, "b": {"c": None}}
    for broken in (b"[1]", b"{", b"\xff"):
        with pytest.raises(InvalidMessage):
            edited(Letter(1, "q", "failed", None, 1, 0.0, Envelope("m", "order", broken)), {"a": 2})


async def test_what_failed_and_waits_for_another_attempt_is_in_its_group_and_counted_once_when_it_dies(store: Kept) -> None:
    now = 0.0
    groups = FailureGroups(lambda: now)
    store.die(placed(), at=100.0)
    store.fail("a", placed(line=7), at=200.0)
    store.fail("b", placed("other").replace("ValueError", "KeyError"), at=300.0)

    async def told() -> list[tuple[str, int, int, str]]:
        await groups.refresh(cast("Store", store))
        return [(group.cause.error, len(group.numbers), group.waiting, group.place) for group in groups.groups()]

    other = ("KeyError", 0, 1, "shop.prices:parse:4")
    assert await told() == [other, ("ValueError", 1, 1, "shop.prices:parse:7")]
    letter = next(one for one in store.waiting.values() if one.envelope.id == "a")
    store.kept[99] = Letter(
        99, "orders", "failed", placed(line=7), 2, 400.0, letter.envelope
    )  # it dies, and what waits is not read again yet
    groups._looks_at = 1.0  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
    assert await told() == [("ValueError", 2, 0, "shop.prices:parse:7"), other]
    store.waiting.clear()
    now = 2.0
    assert await told() == [("ValueError", 2, 0, "shop.prices:parse:7")]
