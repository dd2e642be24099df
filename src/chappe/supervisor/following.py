"""Does on this host what operators want of the fleet, and tells the others how its pools are."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from typing import Any, Final, Protocol

from chappe.connection import Connection, Setting, connect
from chappe.engines.contract.fleet import POOL, RELOAD, Desired
from chappe.errors import BrokerError, ChappeError
from chappe.supervisor.tuning import Tuned, Tuning

log = logging.getLogger("chappe.supervisor")

TURN: Final = 0.5  # seconds
_EVERY: Final = 0.9
_MOST_QUEUES: Final = 100  # whose times are told


class Host(Tuned, Protocol):
    """What keeps the processes of this host, and takes a new release into use."""

    def reload(self) -> None: ...


class Following:
    """Looks twice a second at what is wanted; while the engine is away, all stays as it is."""

    def __init__(self, host: Host, tuning: Tuning) -> None:
        self._host = host
        self._tuning = tuning
        self._looks_at = 0.0
        self._known = 0
        self._is_first = True

    async def follow(self) -> None:
        """Go on until cancelled."""
        connection = connect(self._host.settings, Setting(role="supervisor", may_own_file=False), {"pid": os.getpid()})
        try:
            while True:
                try:
                    await self._turn(connection)
                except BrokerError as error:
                    log.debug("cannot look at what is wanted (%s); trying again", error)
                except ChappeError as error:
                    log.error("cannot look at what is wanted: %s; trying again", error)
                await asyncio.sleep(TURN)
        finally:
            await connection.close()

    async def _turn(self, connection: Connection) -> None:
        found = await connection.store.desired(after=self._known)
        for one in found:
            self._known = one.number
            self._hear(one)
        self._is_first = False
        if any(one.what.startswith(POOL) for one in found):
            await self._host.fit()
        await self._look(connection)

    async def _look(self, connection: Connection) -> None:
        """Have pools fit what waits, and tell the others of this host, once a second."""
        now = time.monotonic()
        if now >= self._looks_at:
            self._looks_at = now + _EVERY
            await self._tuning.scale((await connection.store.overview()).queues)
            await connection.store.tell(self.report())

    def _hear(self, one: Desired) -> None:
        if one.what.startswith(POOL):
            name = one.what.removeprefix(POOL)
            try:
                self._host.pools.want(name, one.value)
            except ValueError as error:
                log.error("pool %s stays as it is: %s", name, error)
                return
            log.info("pool %s: %s processes, by %s", name, one.value or "the declared", one.who)
        elif one.what == RELOAD and not self._is_first:
            log.info("a reload was asked for by %s", one.who)
            self._host.reload()

    def report(self) -> dict[str, Any]:
        """Return what others see of this host."""
        counts = self._host.pools.counts(self._host.settings)
        return {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "pools": {name: self._pool(name, count) for name, count in counts.items()},
            "pressure": self._tuning.seen(),
            "times": list(self._tuning.times.values())[:_MOST_QUEUES],
        }

    def _pool(self, name: str, count: int) -> dict[str, Any]:
        settings = self._host.settings
        children = [child for child in self._host.running if child.spec.pool == name]
        load, decision = self._tuning.decisions.get(name, (None, None))
        return {
            "queues": settings.pools[name].queues,
            "exclude": settings.pools[name].exclude,
            "bounds": self._host.pools.bounds(settings, name),
            "wanted": count,
            "slots": settings.pools[name].concurrency,
            "busy": sum(child.beat.busy for child in children),
            "rate": round(self._tuning.rate(name), 2),
            "load": load,
            "wants": decision and decision.wanted,
            "why": decision and decision.why,
            "max_wait": settings.pools[name].max_wait,
            "processes": [
                {"name": c.spec.name, "pid": c.pid, "state": c.state, "starts": c.starts, "crashes": c.crashes, "memory": c.memory()}
                for c in children
            ],
        }
