"""Whose turn it is, said of messages that are in no database."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from chappe.engines.dispatch import SUSPECT, Line, Row


class Shelf:
    """The messages that wait: by number their rank, flags and key; `most` rows are read at once."""

    def __init__(self, *, most: int = 100) -> None:
        self.rows: dict[int, Row] = {}
        self.most = most
        self.looks = 1_000
        self.line = Line()
        self.lent: set[int] = set()

    def put(self, number: int, *, priority: int = 0, key: str | None = None, flags: int = 0) -> None:
        self.rows[number] = (number, -priority, flags, key)
        self.line.rank(-priority).exhausted = False

    def at(self, rank: int, number: int) -> Row | None:
        row = self.rows.get(number)
        return row if row is not None and row[1] == rank else None

    def behind(self, rank: int, number: int, most: int, tenant: str | None) -> tuple[list[Row], bool]:
        assert tenant is None
        waiting = sorted(row for row in self.rows.values() if row[1] == rank and row[0] > number)
        rows = waiting[: min(most, self.most, self.looks)]
        self.looks -= len(rows)
        return rows, len(rows) == len(waiting)

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
            self.line.hand_on(key, min(((row[1], row[0], None) for row in self.rows.values() if row[3] == key), default=None))

    def give_back(self, number: int) -> None:
        self.lent.discard(number)
        self.line.rank(self.rows[number][1]).give_back(number)


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


_message = st.tuples(st.integers(-1, 1), st.sampled_from([None, None, "a", "b"]))


@given(st.lists(_message, max_size=30), st.lists(st.tuples(st.integers(1, 4), st.booleans()), max_size=30), st.integers(1, 5))
def test_however_it_goes_all_are_lent_keys_never_twice_at_once_and_in_their_order(
    messages: list[tuple[int, str | None]], steps: Iterable[tuple[int, bool]], most: int
) -> None:
    made = Shelf(most=most)
    made.looks = 10**9
    for number, (priority, key) in enumerate(messages, 1):
        made.put(number, priority=priority, key=key)
    rows, ended = dict(made.rows), list[int]()
    for asked, comes_back in [*steps, *[(30, False)] * (len(messages) + 1)]:
        taken = made.take(asked)
        keys = [rows[number][3] for number in made.lent if rows[number][3] is not None]
        assert len(keys) == len(set(keys))
        if comes_back:
            for number in taken:
                made.give_back(number)
        else:
            for number in sorted(made.lent):
                made.end(number)
                ended.append(number)
    assert sorted(ended) == sorted(rows), "each is lent some day"
    for key in ("a", "b"):
        of_key = [rows[number][1:2] + (number,) for number in ended if rows[number][3] == key]
        assert all(first < second for first, second in pairwise(of_key))
