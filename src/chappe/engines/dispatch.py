"""Whose turn it is in a queue: larger priorities first, then what came back, then in the order of publishing; a key that is taken waits.

Pure: an engine gives what it reads of the messages that wait, and lends what it is told. Nothing here grows with the backlog: only with
what came back, with the keys that are taken, and with those that others wait for.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final, Protocol

SUSPECT: Final = 64  # among the flags of a message: a worker died while it executed, so that it runs alone

Row = tuple[int, int, int, str | None, *tuple[Any, ...]]  # its number, rank, flags and key; what follows is the engine's


class Waiting(Protocol):
    """What an engine reads of the messages that wait in a queue; ranks are priorities times -1, numbers grow with each message."""

    def at(self, rank: int, number: int) -> Row | None:
        """Return one message, if it is there."""
        ...

    def behind(self, rank: int, number: int, most: int) -> tuple[Sequence[Row], bool]:
        """Return up to `most` with larger numbers, in order, and whether that is all there is."""
        ...

    @property
    def is_over(self) -> bool:
        """Whether no more is to be read now."""
        ...


class Rank:
    """The messages of one priority: served by `cursor`, but first what came back."""

    __slots__ = ("cursor", "exhausted", "returned")

    def __init__(self) -> None:
        self.cursor = 0
        self.exhausted = False
        self.returned: list[int] = []

    def give_back(self, number: int) -> None:
        """Remember a message that is ready again at its old place."""
        heapq.heappush(self.returned, number)


class Line:
    """The messages that wait in one queue, by what must be known to say which are next."""

    __slots__ = ("_ranks", "blocked", "held", "order", "suspects")

    def __init__(self) -> None:
        self.restart({}, (), ())

    def restart(self, held: Mapping[str, int], suspects: Iterable[tuple[int, int]], ranks: Iterable[int]) -> None:
        """Begin at the front: `held` are the keys that are taken, `suspects` the places of those that wait to run alone."""
        self.held = dict(held)  # which message has a key: one that is lent, came back, or is retried later
        self.blocked: set[str] = set()  # the keys that others were seen to wait for
        self.suspects = sorted(suspects)  # a heap
        self._ranks = {rank: Rank() for rank in ranks}
        self.order = sorted(self._ranks)

    def rank(self, rank: int) -> Rank:
        """Return the state of one priority."""
        found = self._ranks.get(rank)
        if found is None:
            found = self._ranks[rank] = Rank()
            self.order = sorted(self._ranks)
        return found

    @property
    def servable(self) -> bool:
        """Whether there may be a message to lend, suspects aside; never false when there is one."""
        return any(not r.exhausted or r.returned for r in self._ranks.values())

    def take(self, most: int, waiting: Waiting, lent: Collection[int]) -> list[Row]:
        """Return the next ones, in order. Each has its key from now on; what cannot be lent after all must be given back."""
        found: list[Row] = []
        for number in self.order:
            rank = self._ranks[number]
            if rank.returned:
                self._take_returned(rank, number, most, waiting, lent, found)
            again = {row[0] for row in found}  # they are not lent yet, and may be in front of the cursor
            while not rank.exhausted and len(found) < most and not waiting.is_over:
                rows, rank.exhausted = waiting.behind(number, rank.cursor, most - len(found))
                for row in rows:
                    if row[0] in lent or row[0] in again or row[2] & SUSPECT:
                        continue
                    key = row[3]
                    if key is not None and self.held.setdefault(key, row[0]) != row[0]:
                        self.blocked.add(key)
                    else:
                        found.append(row)
                if rows:
                    rank.cursor = rows[-1][0]
            if len(found) >= most or waiting.is_over:
                break
        return found

    @staticmethod
    def _take_returned(rank: Rank, number: int, most: int, waiting: Waiting, lent: Collection[int], found: list[Row]) -> None:
        """Take what came back, and has its key since it was lent."""
        last = 0
        while rank.returned and len(found) < most and not waiting.is_over:
            place = heapq.heappop(rank.returned)
            row = None if place == last else waiting.at(number, last := place)
            if row is not None and place not in lent and not row[2] & SUSPECT:
                found.append(row)

    def take_suspect(self, waiting: Waiting, lent: Collection[int]) -> Row | None:
        """Return the next one of those that run alone whose key is not taken."""
        found: Row | None = None
        later: list[tuple[int, int]] = []
        while self.suspects and found is None:
            place = heapq.heappop(self.suspects)
            row = waiting.at(*place)
            if row is None or row[0] in lent or not row[2] & SUSPECT:
                continue  # it was purged, or is running, and comes back by itself
            if row[3] is not None and self.held.setdefault(row[3], row[0]) != row[0]:
                later.append(place)
            else:
                found = row
        for place in later:
            heapq.heappush(self.suspects, place)
        return found

    def free(self, key: str) -> bool:
        """Have a key be free; tells whether others may wait for it: `hand_on` it then."""
        self.held.pop(key, None)
        return key in self.blocked

    def hand_on(self, key: str, first: tuple[int, int] | None) -> None:
        """Give a free key to the first one that waits for it, by rank and number, if its turn is over; else it comes in its turn."""
        if first is None:
            self.blocked.discard(key)
        elif first[1] <= (rank := self.rank(first[0])).cursor:
            self.held[key] = first[1]
            rank.give_back(first[1])
