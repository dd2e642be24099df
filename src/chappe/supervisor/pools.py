"""How many processes each pool of this host has: what is declared, what operators want instead, and what autoscale chose between."""

from __future__ import annotations

from chappe.settings import Settings, processes_of


class Pools:
    """What is wanted of the pools, whatever the release."""

    def __init__(self) -> None:
        self._wanted: dict[str, str] = {}
        self._chosen: dict[str, int] = {}

    def want(self, pool: str, processes: str | None) -> None:
        """Hear what an operator wants of a pool: a number, "min..max", or what is declared. Raises `ValueError`."""
        if processes is None:
            self._wanted.pop(pool, None)
        else:
            processes_of(processes)
            self._wanted[pool] = processes

    def choose(self, pool: str, count: int) -> None:
        """Hear how many processes autoscale wants within the bounds."""
        self._chosen[pool] = count

    def bounds(self, settings: Settings, pool: str) -> tuple[int, int]:
        """Return the least and the largest number of processes."""
        wanted = self._wanted.get(pool)
        return settings.pools[pool].bounds if wanted is None else processes_of(wanted)

    def counts(self, settings: Settings) -> dict[str, int]:
        """Return how many processes each pool of a release has."""
        found: dict[str, int] = {}
        for pool in settings.pools:
            least, most = self.bounds(settings, pool)
            found[pool] = min(most, max(least, self._chosen.get(pool, least)))
        return found
