"""Whose turn it is, said of messages that are in no database."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from chappe.engines.dispatch import SUSPECT, Line, Row
from chappe.engines.fairness import Shares


class Shelf:
    """The messages that wait: by number their rank, flags, key and tenant; `most` rows are read at once."""

    def __init__(self, *, most: int = 100) -> None:
        self.rows: dict[int, Row] = {}
        self.whose: dict[int, str] = {}
        self.most = most
        self.looks = 1_000
        self.reads = 0
        self.line = Line()
        self.lent: set[int] = set()

    def put(self, number: int, *, priority: int = 0, key: str | None = None, flags: int = 0, tenant: str | None = None) -> None:
        self.rows[number] = (number, -priority, flags, key)
        if tenant is None:
            self.line.rank(-priority).exhausted = False
            return
        if self.line.shares is None:
            self.line.shares = Shares({})
        self.whose[number] = tenant
        self.line.lane(-priority, tenant, number - 1).arrive(number)

    def at(self, rank: int, number: int) -> Row | None:
        row = self.rows.get(number)
        return row if row is not None and row[1] == rank else None

    def behind(self, rank: int, number: int, most: int) -> tuple[list[Row], bool]:
        waiting = self._waiting(rank, number, None)
        return self._read(waiting[: min(most, self.most, self.looks)]), min(most, self.most, self.looks) >= len(waiting)

    def numbers(self, rank: int, tenant: str | None, number: int, most: int) -> list[int]:
        self.reads += 1
        return [row[0] for row in self._waiting(rank, number, tenant)][:most]

    def those(self, rank: int, numbers: Sequence[int]) -> list[Row]:
        return self._read([row for number in numbers if (row := self.at(rank, number)) is not None][: self.looks])

    def _waiting(self, rank: int, number: int, tenant: str | None) -> list[Row]:
        return sorted(row for row in self.rows.values() if row[1] == rank and row[0] > number and self.whose.get(row[0]) == tenant)

    def _read(self, rows: list[Row]) -> list[Row]:
        self.looks -= len(rows)
        self.reads += 1
        return rows

    @property
    def is_over(self) -> bool:
        return self.looks <= 0

    def take(self, most: int = 100) -> list[int]:
        taken = [row[0] for row in self.line.take(most, self, self.lent)]
        self.lent.update(taken)
        return taken

    def end(self, number: int) -> None:
        _, _, _, key = self.rows.pop(number)
        self.lent.discard(number)
        if key is not None and self.line.free(key):
            waits = [(row[1], row[0], self.whose.get(row[0])) for row in self.rows.values() if row[3] == key]
            self.line.hand_on(key, min(waits, default=None))

    def give_back(self, number: int) -> None:
        self.lent.discard(number)
        self.line.lane(self.rows[number][1], self.whose.get(number), number).give_back(number)

    def begin_anew(self) -> None:
        """Forget what is known of those that wait, as an engine that was restarted."""
        held = {key: number for number, _, _, key in self.rows.values() if number in self.lent and key is not None}
        self.line.restart(held, (), {row[1] for row in self.rows.values()})
        for number, tenant in self.whose.items():
            if number in self.rows:
                self.line.lane(self.rows[number][1], tenant, 0).exhausted = False


def shelf(*numbers: int, most: int = 100) -> Shelf:
    made = Shelf(most=most)
    for number in numbers:
        made.put(number)
    return made


def test_larger_priorities_are_first_then_the_order_of_publishing() -> None:
    made = shelf(1, 2)
    made.put(3, priority=5)
    made.put(4, priority=-1)
    made.put(5, priority=5)
    assert made.take() == [3, 5, 1, 2, 4]
    assert not made.line.servable


def test_no_more_are_taken_than_asked_and_the_next_are_those_behind_them() -> None:
    made = shelf(*range(1, 10), most=2)
    assert [made.take(3) for _ in range(4)] == [[1, 2, 3], [4, 5, 6], [7, 8, 9], []]


def test_what_came_back_is_before_what_was_never_lent() -> None:
    made = shelf(1, 2, 3, 4)
    assert made.take(2) == [1, 2]
    made.give_back(2)
    assert made.take(2) == [2, 3]


def test_what_came_back_twice_or_is_gone_is_taken_once_or_not_at_all() -> None:
    made = shelf(1, 2)
    made.take()
    for number in (1, 1, 2):
        made.give_back(number)
    made.end(2)
    assert made.take() == [1]


def test_what_came_back_before_a_line_began_anew_is_not_taken_again_in_its_turn() -> None:
    made = shelf(1, 2, 3)
    made.line.restart({}, (), [0])
    made.give_back(2)
    assert made.take() == [2, 1, 3]


def test_a_key_is_taken_once_and_handed_on_in_order() -> None:
    made = Shelf()
    for number, key in ((1, "a"), (2, "a"), (3, "b"), (4, "a"), (5, None)):
        made.put(number, key=key)
    assert made.take() == [1, 3, 5]
    made.end(1)
    assert made.take() == [2]
    made.end(2)
    assert made.take() == [4]
    made.end(4)
    made.put(6, key="a")
    assert made.take() == [6]


def test_the_next_one_of_a_key_comes_in_its_turn_if_that_is_still_to_come() -> None:
    made = Shelf(most=2)
    for number, key in ((1, "a"), (2, "a"), (3, None), (4, "a")):
        made.put(number, key=key)
    assert made.take(1) == [1]
    made.end(1)
    assert made.line.held == {}
    assert made.take() == [2, 3]


def test_what_has_its_key_keeps_it_when_it_comes_back() -> None:
    made = Shelf()
    made.put(1, key="a")
    made.put(2, key="a")
    assert made.take() == [1]
    made.give_back(1)
    assert made.take() == [1], "its turn is before that of the other"


def test_the_reading_ends_when_it_says_so_and_goes_on_where_it_ended() -> None:
    made = Shelf(most=10)
    for number in range(1, 40):
        made.put(number, key="busy")
    made.put(40)
    made.looks = 25
    assert made.take() == [1]
    assert made.line.servable
    made.looks = 25
    assert made.take() == [40]


def test_suspects_are_passed_over_and_taken_one_by_one_when_they_are_asked_for() -> None:
    made = Shelf()
    for number, key in ((1, "a"), (2, None), (3, "a")):
        made.put(number, key=key, flags=SUSPECT)
    made.put(4)
    made.line.restart({}, [(0, 1), (0, 2), (0, 3), (0, 9)], [0])
    assert made.take() == [4]
    taken = [row and row[0] for row in (made.line.take_suspect(made, made.lent) for _ in range(3))]
    assert taken == [1, 2, None], "the third waits for the key of the first, and there is no ninth"
    assert made.line.suspects == [(0, 3)]


def test_tenants_take_turns_and_each_keeps_its_order() -> None:
    made = Shelf()
    for number in range(1, 41):
        made.put(number, tenant="a" if number < 31 else "b")
    made.put(41)
    assert made.take(6) == [41, 1, 31, 2, 32, 3]
    assert made.line.whose == {41: "", 1: "a", 31: "b", 2: "a", 32: "b", 3: "a"}
    rest = made.take(100)
    assert sorted(rest) == [*range(4, 31), *range(33, 41)]
    assert [number for number in rest if number < 31] == list(range(4, 31))
    assert [number for number in rest if number >= 31] == list(range(33, 41))


def test_a_take_among_a_thousand_tenants_reads_once_where_it_saw_them_come() -> None:
    made = Shelf()
    for number in range(1, 3001):
        made.put(number, tenant=f"t{(number - 1) % 1000:03}")
    assert len(made.take(250)) == 250
    assert made.reads == 2, "the messages, and whether there are any of no tenant"
    made.begin_anew()
    made.reads = 0
    assert len(made.take(250)) == 250
    assert made.reads <= 3 + 500, "also the numbers of each that has a turn, of whom the first are those that are lent"


def test_keys_are_handed_on_to_a_tenant_of_whom_nothing_else_waits() -> None:
    made = Shelf()
    for number, tenant in ((1, "a"), (2, "a"), (3, "b"), (4, "b")):
        made.put(number, tenant=tenant, key=f"k{number % 2}")
    assert made.take() == [1, 2]
    assert made.take() == []
    made.end(1)
    made.end(2)
    assert made.take() == [3, 4]


def test_what_could_not_be_read_of_the_tenants_comes_next() -> None:
    made = Shelf()
    for number in range(1, 11):
        made.put(number, tenant=f"t{number % 3}")
    made.looks = 4
    first = made.take(10)
    assert len(first) == 4
    made.looks = 100
    assert sorted([*first, *made.take(10)]) == list(range(1, 11))


_message = st.tuples(st.integers(-1, 1), st.sampled_from([None, None, "a", "b"]), st.sampled_from([None, None, "x", "y"]))
_take = st.tuples(st.integers(1, 4), st.sampled_from(["ends", "comes back", "begins anew"]))


@given(st.lists(_message, max_size=30), st.lists(_take, max_size=30), st.integers(1, 5))
def test_however_it_goes_all_are_lent_keys_never_twice_at_once_and_in_their_order(
    messages: list[tuple[int, str | None, str | None]], steps: Iterable[tuple[int, str]], most: int
) -> None:
    made = Shelf(most=most)
    made.looks = 10**9
    for number, (priority, key, tenant) in enumerate(messages, 1):
        made.put(number, priority=priority, key=key, tenant=tenant)
    rows, ended = dict(made.rows), list[int]()
    for asked, what in [*steps, *[(30, "ends")] * (len(messages) + 1)]:
        if what == "begins anew":
            made.begin_anew()
        taken = made.take(asked)
        keys = [rows[number][3] for number in made.lent if rows[number][3] is not None]
        assert len(keys) == len(set(keys))
        if what == "comes back":
            for number in taken:
                made.give_back(number)
        else:
            for number in sorted(made.lent):
                made.end(number)
                ended.append(number)
    assert sorted(ended) == sorted(rows), "each is lent some day"
    for key in ("a", "b"):
        for tenant in (None, "x", "y"):
            of_both = [rows[number][1:2] + (number,) for number in ended if rows[number][3] == key and made.whose.get(number) == tenant]
            assert all(first < second for first, second in pairwise(of_both))
