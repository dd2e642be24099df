"""Whose turn it is among tenants: shares of their workers' time, by weight. Pure.

The tenant that had least is next: the seconds that its messages took, divided by its weight, with an estimate for each that runs. It is
start-time fair queueing (Goyal, Vin and Cheng, 1996) whose tags are corrected by what was measured, so that a changed weight counts from
the next claim on, and messages that take longer cost more. Who comes when others have had much has no claim on what it did not ask for.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from chappe.errors import Rejected

_LEARNS: Final = 0.2  # of an estimate, by each message
_LEAST: Final = 1e-6  # seconds that a message costs: else one tenant would be first for ever
_LIGHTEST: Final = 0.001
_HEAVIEST: Final = 1000.0
_REMEMBERED: Final = 10_000  # tenants that have nothing waiting or running


class Turn(NamedTuple):
    """A tenant by what it has had: the smallest is next, of equals the one of which least runs."""

    had: float
    running: float
    tenant: str
    step: float  # what one message more adds to `had`

    def next(self) -> Turn:
        """Return what it is after one message more."""
        return self._replace(had=self.had + self.step)


class _Account:
    """What is known of one tenant."""

    __slots__ = ("estimate", "running", "used")

    def __init__(self, used: float) -> None:
        self.used = used  # seconds by weight
        self.running = 0
        self.estimate: float | None = None  # seconds of one message


class Shares:
    """What the tenants of one queue have had."""

    def __init__(self, weights: Mapping[str, float], least: float = 0.0) -> None:
        """Begin with nothing; `weights` may change at any time, who is not in it has 1. `least` is what those had that wait."""
        self._weights = weights
        self._accounts: dict[str, _Account] = {}
        self._typical: float | None = None
        self.least = least  # what those had that waited at the last look

    def turns(self, tenants: Iterable[str]) -> list[Turn]:
        """Return the turns of those that wait, as a heap."""
        found: list[Turn] = []
        least: float | None = None
        for tenant in tenants:
            account, weight = self._account(tenant), self._weights.get(tenant, 1.0)
            step = max(_LEAST, (1.0 if self._typical is None else self._typical) if account.estimate is None else account.estimate) / weight
            least = account.used if least is None else min(least, account.used)
            found.append(Turn(account.used + account.running * step, account.running / weight, tenant, step))
        if least is not None:
            self.least = max(self.least, least)
        heapq.heapify(found)
        return found

    def know(self, tenant: str, used: float, estimate: float | None, running: int) -> None:
        """Take what is stored of a tenant."""
        account = self._account(tenant)
        account.used, account.estimate, account.running = max(used, self.least), estimate, running
        if estimate is not None:
            self._typical = _learnt(self._typical, estimate)

    def arrive(self, tenant: str) -> None:
        """Hear that something of a tenant waits of which nothing waited: what it did not use is not kept for it."""
        account = self._account(tenant)
        if not account.running:
            account.used = max(account.used, self.least)

    def lent(self, tenant: str, count: int = 1) -> None:
        """Hear that so many more messages of a tenant run, or so many less."""
        self._account(tenant).running += count

    def took(self, tenant: str, seconds: float) -> None:
        """Hear how long a message of a tenant took."""
        account, seconds = self._account(tenant), max(_LEAST, seconds)
        account.used += seconds / self._weights.get(tenant, 1.0)
        account.estimate = _learnt(account.estimate, seconds)
        self._typical = _learnt(self._typical, seconds)

    def _account(self, tenant: str) -> _Account:
        account = self._accounts.get(tenant)
        if account is None:
            if len(self._accounts) >= _REMEMBERED:
                kept = {name: known for name, known in self._accounts.items() if known.running or known.used > self.least}
                self._accounts = kept if len(kept) < _REMEMBERED else {name: one for name, one in kept.items() if one.running}
            account = self._accounts[tenant] = _Account(self.least)
        return account


def _learnt(known: float | None, seconds: float) -> float:
    return seconds if known is None else known + _LEARNS * (seconds - known)


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


def allotted(turns: list[Turn], count: int) -> list[str]:
    """Return whose the next messages are, of a heap of tenants of which each may have as many waiting."""
    found: list[str] = []
    while turns and len(found) < count:
        turn = turns[0]
        found.append(turn.tenant)
        heapq.heapreplace(turns, turn.next())
    return found
