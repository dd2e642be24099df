"""Whose turn it is in a queue: larger priorities first, then the tenants' shares, what came back, and the order of publishing; a key waits.

Pure: an engine gives what it reads of the messages that wait, and lends what it is told. Nothing here grows with the backlog: only with
what came back, with the keys that are taken or waited for, and with the tenants that have something waiting.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final, Protocol

from chappe.engines.fairness import Shares

FAIR: Final = 128  # among the flags of a message: it is of a tenant
SUSPECT: Final = 64  # among the flags of a message: a worker died while it executed, so that it runs alone
_AHEAD: Final = 24  # numbers of one tenant that are read at once, or known from when they came: memory for each tenant that waits

Row = tuple[int, int, int, str | None, *tuple[Any, ...]]  # its number, rank, flags and key; what follows is the engine's


class Waiting(Protocol):
    """What an engine reads of the messages that wait in a queue; ranks are priorities times -1, numbers grow with each message."""

    def at(self, rank: int, number: int) -> Row | None:
        """Return one message, if it is there."""
        ...

    def behind(self, rank: int, number: int, most: int) -> tuple[Sequence[Row], bool]:
        """Return up to `most` of no tenant with larger numbers, in order, and whether that is all there is."""
        ...

    def numbers(self, rank: int, tenant: str | None, number: int, most: int) -> Sequence[int]:
        """Return up to `most` larger numbers of those of a tenant, or of none, in order; fewer where that is all there is."""
        ...

    def those(self, rank: int, numbers: Sequence[int]) -> Sequence[Row]:
        """Return the messages of some numbers that are there, in the order of the numbers, as far as may be read now."""
        ...

    @property
    def is_over(self) -> bool:
        """Whether no more is to be read now."""
        ...


class Lane:
    """Messages that are served by `cursor`, but first what came back, and what is known already of those before the cursor."""

    __slots__ = ("ahead", "cursor", "exhausted", "returned")

    def __init__(self) -> None:
        self.cursor = 0
        self.exhausted = False
        self.ahead: deque[int] = deque()
        self.returned: list[int] = []

    @property
    def servable(self) -> bool:
        """Whether there may be a message in it."""
        return not self.exhausted or bool(self.returned or self.ahead)

    def arrive(self, number: int) -> None:
        """Hear that a message was stored behind all others."""
        if self.exhausted and len(self.ahead) < _AHEAD:
            self.ahead.append(number)
            self.cursor = number
        else:
            self.exhausted = False

    def is_past(self, number: int) -> bool:
        """Tell whether the turn of a message is over."""
        return number < self.ahead[0] if self.ahead else self.exhausted or number <= self.cursor

    def pop(self, most: int) -> list[int]:
        """Return up to `most` numbers that are next, as far as they are known."""
        returned, ahead = self.returned, self.ahead
        found = [heapq.heappop(returned) for _ in range(min(most, len(returned)))]
        return found + [ahead.popleft() for _ in range(min(most - len(found), len(ahead)))]

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

    __slots__ = ("_ranks", "blocked", "held", "order", "shares", "suspects", "whose")

    def __init__(self) -> None:
        self.shares: Shares | None = None  # of a queue of which a message has a tenant
        self.whose: dict[int, str] = {}  # the tenants of what was taken last
        self.restart({}, (), ())

    def restart(self, held: Mapping[str, int], suspects: Iterable[tuple[int, int]], ranks: Iterable[int]) -> None:
        """Begin at the front: `held` are the keys that are taken, `suspects` the places of those that wait to run alone."""
        self.held = dict(held)  # which message has a key: one that is lent, came back, or is retried later
        self.blocked: set[str] = set()  # the keys that others were seen to wait for
        self.suspects = sorted(suspects)  # a heap
        self._ranks = {rank: Rank() for rank in ranks}
        self.order = sorted(self._ranks)
        if self.shares is not None:
            self.shares.restart()

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
                self.shares.wait(tenant, rank, number)
        return lane

    @property
    def servable(self) -> bool:
        """Whether there may be a message to lend, suspects aside; never false when there is one."""
        return any(not r.exhausted or r.returned or r.lanes for r in self._ranks.values())

    def take(self, most: int, waiting: Waiting, lent: Collection[int]) -> list[Row]:
        """Return the next ones, in order. Each has its key from now on; what cannot be lent after all must be given back."""
        found: list[Row] = []
        again: set[int] = set()  # what came back and is not lent yet may be in front of a cursor
        shares = self.shares
        if shares is not None:
            self._look(shares)
        for number in self.order:
            rank = self._ranks[number]
            if shares is not None:
                self._take_fairly(rank, shares, number, most, waiting, lent, found, again)
            else:
                self._take_of(rank, number, most, waiting, lent, found, again)
            if len(found) >= most or waiting.is_over:
                break
        return found

    def _look(self, shares: Shares) -> None:
        """Begin a take among tenants; those of no tenant are one that has no name."""
        self.whose.clear()
        for number, rank in self._ranks.items():
            if rank.servable:
                shares.wait("", number)
        shares.look()

    def _take_fairly(
        self, rank: Rank, shares: Shares, number: int, most: int, waiting: Waiting, lent: Collection[int], found: list[Row],
        again: set[int],
    ) -> None:  # fmt: skip
        """Take from the tenants of one priority, one message after the other."""
        while len(found) < most and not waiting.is_over and (picked := self._pick(rank, shares, number, most - len(found), waiting)):
            rows = waiting.those(number, list(picked))
            self.whose |= picked
            for row in rows:
                if self._admits(row, lent, again):
                    again.add(row[0])
                    found.append(row)
            if waiting.is_over:  # what was not read is still next
                last = rows[-1][0] if rows else None
                for place in reversed(picked):
                    if place == last:
                        break
                    self.lane(number, picked[place], place).give_back(place)

    def _pick(self, rank: Rank, shares: Shares, number: int, most: int, waiting: Waiting) -> dict[int, str]:
        """Return the next numbers by the tenants' turns, each with its tenant."""
        picked: dict[int, str] = {}
        while len(picked) < most and (tenant := shares.next(number)) is not None:
            lane = rank if tenant == "" and rank.servable else rank.lanes.get(tenant)
            if lane is None:
                shares.rest(tenant, number)
            elif places := lane.pop(min(shares.in_a_row(tenant, most), most - len(picked))):
                picked.update(dict.fromkeys(places, tenant))
                shares.deal(tenant, number, len(places), places[-1])
            elif lane.exhausted:
                del rank.lanes[tenant]
            else:
                lane.ahead.extend(waiting.numbers(number, None if lane is rank else tenant, lane.cursor, _AHEAD))
                lane.exhausted = len(lane.ahead) < _AHEAD
                if lane.ahead:
                    lane.cursor = lane.ahead[-1]
        return picked

    def _admits(self, row: Row, lent: Collection[int], again: Collection[int]) -> bool:
        """Tell whether a message can be lent; it has its key from then on."""
        if row[0] in lent or row[0] in again or row[2] & SUSPECT:
            return False
        key = row[3]
        if key is not None and self.held.setdefault(key, row[0]) != row[0]:
            self.blocked.add(key)
            return False
        return True

    def _take_of(
        self, lane: Lane, number: int, most: int, waiting: Waiting, lent: Collection[int], found: list[Row], again: set[int],
    ) -> None:  # fmt: skip
        """Take from one lane until there are so many in all."""
        if lane.returned:
            before = len(found)
            self._take_returned(lane, number, most, waiting, lent, found)
            again.update(row[0] for row in found[before:])
        while not lane.exhausted and len(found) < most and not waiting.is_over:
            rows, lane.exhausted = waiting.behind(number, lane.cursor, most - len(found))
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
        elif (lane := self.lane(first[0], first[2], first[1])).is_past(first[1]):
            self.held[key] = first[1]
            lane.give_back(first[1])
