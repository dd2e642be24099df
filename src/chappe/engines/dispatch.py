"""Whose turn it is in a queue: larger priorities first, then the tenants' shares, what came back, and the order of publishing; a key waits.

Pure: an engine gives what it reads of the messages that wait, and lends what it is told. Nothing here grows with the backlog: only with
what came back, with the keys that are taken or waited for, and with the tenants that have something waiting.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final, Protocol

from chappe.engines.fairness import Shares

FAIR: Final = 128  # among the flags of a message: it is of a tenant
SUSPECT: Final = 64  # among the flags of a message: a worker died while it executed, so that it runs alone

Row = tuple[int, int, int, str | None, *tuple[Any, ...]]  # its number, rank, flags and key; what follows is the engine's


class Waiting(Protocol):
    """What an engine reads of the messages that wait in a queue; ranks are priorities times -1, numbers grow with each message."""

    def at(self, rank: int, number: int) -> Row | None:
        """Return one message, if it is there."""
        ...

    def behind(self, rank: int, number: int, most: int, tenant: str | None) -> tuple[Sequence[Row], bool]:
        """Return up to `most` of a tenant, or of none, with larger numbers, in order, and whether that is all there is."""
        ...

    @property
    def is_over(self) -> bool:
        """Whether no more is to be read now."""
        ...


class Lane:
    """Messages that are served by `cursor`, but first what came back."""

    __slots__ = ("cursor", "exhausted", "returned")

    def __init__(self) -> None:
        self.cursor = 0
        self.exhausted = False
        self.returned: list[int] = []

    @property
    def servable(self) -> bool:
        """Whether there may be a message in it."""
        return not self.exhausted or bool(self.returned)

    def give_back(self, number: int) -> None:
        """Remember a message that is ready again at its old place."""
        heapq.heappush(self.returned, number)


class Rank(Lane):
    """The messages of one priority: those of no tenant, and a lane for each tenant that has something waiting."""

    __slots__ = ("lanes",)

    def __init__(self) -> None:
        super().__init__()
        self.lanes: dict[str, Lane] = {}


class Line:
    """The messages that wait in one queue, by what must be known to say which are next."""

    __slots__ = ("_ranks", "blocked", "held", "order", "shares", "suspects")

    def __init__(self) -> None:
        self.shares: Shares | None = None  # of a queue of which a message has a tenant
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

    def lane(self, rank: int, tenant: str | None, number: int) -> Lane:
        """Return the state of a tenant, or of no tenant, in one priority; of a new one all up to a number were served."""
        found = self.rank(rank)
        if tenant is None:
            return found
        lane = found.lanes.get(tenant)
        if lane is None:
            lane = found.lanes[tenant] = Lane()
            lane.cursor, lane.exhausted = number, True
            if self.shares is not None:
                self.shares.arrive(tenant)
        return lane

    @property
    def servable(self) -> bool:
        """Whether there may be a message to lend, suspects aside; never false when there is one."""
        return any(not r.exhausted or r.returned or r.lanes for r in self._ranks.values())

    def take(self, most: int, waiting: Waiting, lent: Collection[int]) -> list[Row]:
        """Return the next ones, in order. Each has its key from now on; what cannot be lent after all must be given back."""
        found: list[Row] = []
        again: set[int] = set()  # what came back and is not lent yet may be in front of a cursor
        for number in self.order:
            rank = self._ranks[number]
            if rank.lanes and self.shares is not None:
                self._take_fairly(rank, self.shares, number, most, waiting, lent, found, again)
            else:
                self._take_of(rank, None, number, most, waiting, lent, found, again)
            if len(found) >= most or waiting.is_over:
                break
        return found

    def _take_fairly(
        self, rank: Rank, shares: Shares, number: int, most: int, waiting: Waiting, lent: Collection[int], found: list[Row],
        again: set[int],
    ) -> None:  # fmt: skip
        """Take from the tenants of one priority, one message after the other; those of no tenant are one that has no name."""
        turns = shares.turns({*rank.lanes, ""} if rank.servable else rank.lanes)
        while turns and len(found) < most and not waiting.is_over:
            turn, before = turns[0], len(found)
            if turn.tenant == "" and rank.servable:
                self._take_of(rank, None, number, before + 1, waiting, lent, found, again)
            elif (lane := rank.lanes.get(turn.tenant)) is not None:
                self._take_of(lane, turn.tenant, number, before + 1, waiting, lent, found, again)
                if not lane.servable:
                    del rank.lanes[turn.tenant]
            else:
                heapq.heappop(turns)
            if len(found) > before:
                heapq.heapreplace(turns, turn.next())

    def _take_of(
        self, lane: Lane, tenant: str | None, number: int, most: int, waiting: Waiting, lent: Collection[int], found: list[Row],
        again: set[int],
    ) -> None:  # fmt: skip
        """Take from one lane until there are so many in all."""
        if lane.returned:
            before = len(found)
            self._take_returned(lane, number, most, waiting, lent, found)
            again.update(row[0] for row in found[before:])
        while not lane.exhausted and len(found) < most and not waiting.is_over:
            rows, lane.exhausted = waiting.behind(number, lane.cursor, most - len(found), tenant)
            for row in rows:
                if row[0] in lent or row[0] in again or row[2] & SUSPECT:
                    continue
                key = row[3]
                if key is not None and self.held.setdefault(key, row[0]) != row[0]:
                    self.blocked.add(key)
                else:
                    found.append(row)
            if rows:
                lane.cursor = rows[-1][0]

    @staticmethod
    def _take_returned(lane: Lane, number: int, most: int, waiting: Waiting, lent: Collection[int], found: list[Row]) -> None:
        """Take what came back, and has its key since it was lent."""
        last = 0
        while lane.returned and len(found) < most and not waiting.is_over:
            place = heapq.heappop(lane.returned)
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

    def hand_on(self, key: str, first: tuple[int, int, str | None] | None) -> None:
        """Give a free key to the first that waits for it, by rank, number and tenant, if its turn is over; else it comes in its turn."""
        if first is None:
            self.blocked.discard(key)
        elif first[1] <= (lane := self.lane(first[0], first[2], first[1])).cursor:
            self.held[key] = first[1]
            lane.give_back(first[1])
