"""Whose turn it is among tenants: shares of their workers' time, by weight. Pure.

The tenant that had least is next: the seconds that its messages took, divided by its weight, with an estimate for each that runs. It is
start-time fair queueing (Goyal, Vin and Cheng, 1996) whose tags are corrected by what was measured, so that a changed weight counts from
the next claim on, and messages that take longer cost more. Who comes when others have had much has no claim on what it did not ask for.

Who has had the same but for a moment is served in the order of the store, where neighbours cost much less than messages from everywhere.
The turns are kept in a heap, in which only those are put anew of whom something changed: a claim costs as much as it brings, whatever
the number of tenants.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from typing import Final

from chappe.errors import Rejected

_LEARNS: Final = 0.2  # of an estimate, by each message
_LEAST: Final = 1e-6  # seconds that a message costs: else one tenant would be first for ever
_LIGHTEST: Final = 0.001
_HEAVIEST: Final = 1000.0
_REMEMBERED: Final = 10_000  # tenants that have nothing waiting or running
_QUANTUM: Final = 0.001  # seconds for which one tenant may be served in a row: nobody waits noticeably longer for it
_IN_A_ROW: Final = 24  # messages of one tenant, of a claim of a hundred or more

# What a tenant has had, to the quantum, and what of it runs, both by weight, and where the last one stood: the smallest is next.
_Turn = tuple[float, float, int, str]


class _Account:
    """What is known of one tenant."""

    __slots__ = ("estimate", "had", "in_a_row", "place", "ranks", "running", "step", "turn", "used", "weight")

    def __init__(self, used: float) -> None:
        self.used = used  # seconds by weight
        self.running = 0
        self.place = 0  # in the store, of what was served last
        self.estimate: float | None = None  # seconds of one message
        self.ranks: set[int] = set()  # where something of it waits
        self.had = used  # with an estimate of what runs, and was dealt out
        self.step = 0.0  # what one message more adds to it
        self.weight = 1.0
        self.in_a_row = 1  # messages that are served at once, because they are short
        self.turn: _Turn = (used, 0.0, 0, "")

    def turn_after(self, running: float, tenant: str) -> _Turn:
        """Return the turn that follows from what it had, where so much runs."""
        quantum = _QUANTUM / self.weight
        return (self.had // quantum * quantum, running, self.place, tenant)


class Shares:
    """What the tenants of one queue have had, and whose turn it is among those that have something waiting in a rank."""

    def __init__(self, weights: Mapping[str, float], least: float = 0.0) -> None:
        """Begin with nothing; who is not in `weights` has 1. `least` is what those had that wait."""
        self._weights = weights
        self._accounts: dict[str, _Account] = {}
        self._room = _REMEMBERED
        self._changed: dict[str, _Account] = {}  # since the last look
        self._heaps: dict[int, list[_Turn]] = {}
        self._typical: float | None = None
        self.least = least  # what those had whose turn it was

    # --- whose turn it is

    def wait(self, tenant: str, rank: int = 0, place: int = 0) -> None:
        """Hear that something of a tenant waits where nothing waited: what it did not use is not kept for it."""
        account = self._account(tenant)
        if rank not in account.ranks:
            if not account.running and not account.ranks:
                account.used = max(account.used, self.least)
                account.place = place
            account.ranks.add(rank)
            self._changed[tenant] = account

    def rest(self, tenant: str, rank: int = 0) -> None:
        """Hear that nothing of a tenant waits any more."""
        self._account(tenant).ranks.discard(rank)

    def restart(self) -> None:
        """Have nothing wait."""
        self._heaps.clear()
        for account in self._accounts.values():
            account.ranks.clear()

    def look(self) -> None:
        """Put everybody in turn by what is known now; what was only dealt out is forgotten."""
        changed, self._changed = self._changed, {}
        weights, typical = self._weights, 1.0 if self._typical is None else self._typical
        is_much = 2 * len(changed) > len(self._accounts)
        for tenant, account in changed.items():
            account.weight = weight = weights.get(tenant, 1.0)
            seconds = typical if account.estimate is None else account.estimate
            account.step = seconds / weight
            account.in_a_row = max(1, min(_IN_A_ROW, int(_QUANTUM / seconds)))
            account.had = account.used + account.running * account.step
            account.turn = turn = account.turn_after(account.running / weight, tenant)
            for rank in () if is_much else account.ranks:
                heapq.heappush(self._heaps.setdefault(rank, []), turn)
        if is_much or any(len(heap) > 2 * len(self._accounts) + 64 for heap in self._heaps.values()):
            self._build()

    def _build(self) -> None:
        """Make the heaps of those that wait, without what is out of date."""
        heaps: dict[int, list[_Turn]] = {}
        for account in self._accounts.values():
            for rank in account.ranks:
                heaps.setdefault(rank, []).append(account.turn)
        for heap in heaps.values():
            heapq.heapify(heap)
        self._heaps = heaps

    def next(self, rank: int = 0) -> str | None:
        """Return whose turn it is in a rank, as of the last look."""
        heap, accounts = self._heaps.get(rank), self._accounts
        while heap:
            turn = heap[0]
            account = accounts.get(turn[3])
            if account is not None and account.turn is turn and rank in account.ranks:
                self.least = max(self.least, account.used)
                return turn[3]
            heapq.heappop(heap)  # it was put elsewhere since
        return None

    def allot(self, count: int, rank: int = 0) -> list[str]:
        """Return whose the next messages are, where each that waits has as many; see `deal`."""
        found: list[str] = []
        self.look()
        while len(found) < count and (tenant := self.next(rank)) is not None:
            more = min(self.in_a_row(tenant, count), count - len(found))
            self.deal(tenant, rank, more)
            found += [tenant] * more
        return found

    def in_a_row(self, tenant: str, most: int) -> int:
        """Return how many messages of who is `next` are served at once, of a claim of up to `most`: neighbours in the store cost less."""
        return min(self._accounts[tenant].in_a_row, 1 + most * _IN_A_ROW // 100)

    def deal(self, tenant: str, rank: int = 0, count: int = 1, place: int | None = None) -> None:
        """Count messages more for who is `next`, until the next look: by then they are `lent`, or were none."""
        account = self._changed[tenant] = self._accounts[tenant]
        account.had += count * account.step
        account.place = account.place if place is None else place
        account.turn = turn = account.turn_after(account.turn[1] + count / account.weight, tenant)
        heapq.heapreplace(self._heaps[rank], turn)
        if len(account.ranks) > 1:
            for other in account.ranks - {rank}:
                heapq.heappush(self._heaps.setdefault(other, []), turn)

    # --- what they had

    def know(self, tenant: str, used: float, estimate: float | None, running: int) -> None:
        """Take what is stored of a tenant."""
        account = self._changing(tenant)
        account.used, account.estimate, account.running = max(used, self.least), estimate, running
        if estimate is not None:
            self._typical = estimate if self._typical is None else self._typical + _LEARNS * (estimate - self._typical)

    def lent(self, tenant: str, count: int = 1, place: int | None = None) -> None:
        """Hear that so many more messages of a tenant run, or so many less, and where in the store the last one of them stood."""
        account = self._changing(tenant)
        account.running += count
        account.place = account.place if place is None else place

    def took(self, tenant: str, seconds: float, count: int = 1) -> None:
        """Hear how long a message of a tenant took, or so many together."""
        account, typical = self._changing(tenant), self._typical
        mean, learns = max(seconds / count, _LEAST), 1 - (1 - _LEARNS) ** count
        account.used += count * mean / self._weights.get(tenant, 1.0)
        account.estimate = mean if account.estimate is None else account.estimate + learns * (mean - account.estimate)
        self._typical = mean if typical is None else typical + learns * (mean - typical)

    def reweigh(self) -> None:
        """Hear that weights have changed."""
        self._changed.update(self._accounts)

    def _changing(self, tenant: str) -> _Account:
        """Return what is known of a tenant, to be put in turn anew at the next look."""
        account = self._changed.get(tenant)
        if account is None:
            account = self._changed[tenant] = self._account(tenant)
        return account

    def _account(self, tenant: str) -> _Account:
        account = self._accounts.get(tenant)
        if account is None:
            if len(self._accounts) >= self._room:
                self._forget()
            account = self._accounts[tenant] = _Account(self.least)
        return account

    def _forget(self) -> None:
        """Forget those that have nothing waiting or running, first those who had no more than others."""
        kept = {name: one for name, one in self._accounts.items() if one.ranks or one.running or one.used > self.least}
        if len(kept) >= self._room:
            kept = {name: one for name, one in kept.items() if one.ranks or one.running}
        self._accounts, self._room = kept, max(_REMEMBERED, 2 * len(kept))
        self._changed = {name: one for name, one in self._changed.items() if name in kept}


def weights_of(desired: Iterable[tuple[str, str | None]]) -> dict[str, float]:
    """Return the weights of tenants from what is desired of each, without those that have none of their own."""
    return {what.partition(":")[2]: float(value) for what, value in desired if value is not None}


def weight_of(value: str) -> float:
    """Return a weight as somebody wrote it; raises `Rejected`."""
    try:
        weight = float(value)
    except ValueError:
        weight = 0.0
    if not _LIGHTEST <= weight <= _HEAVIEST:
        raise Rejected(f"a weight is a number within {_LIGHTEST:g} and {_HEAVIEST:g}, not {value[:40]!r}")
    return weight
