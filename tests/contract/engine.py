"""What the suite asks of an engine under test, beside the two contracts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from chappe.engines.contract.broker import Broker
from chappe.engines.contract.store import Store


@dataclass(frozen=True)
class Peer:
    """One process that is connected to the engine.

    `close` ends it politely; `vanish` cuts its connection as if it was killed, with nothing settled; `cut` takes
    the connection away for a while from a peer that lives on.
    """

    broker: Broker
    store: Store
    close: Callable[[], Awaitable[None]]
    vanish: Callable[[], Awaitable[None]]
    cut: Callable[[], AbstractAsyncContextManager[None]]


class EngineUnderTest(ABC):
    """A broker and store pair on fresh data.

    quiet: seconds after which "nothing came" is believed. patience: seconds within which what is there is seen. moves_time: `advance`
    by much costs no time, so that days can pass. time_stands: time passes by `advance` only. soon: a delay that is short for this
    engine, yet long enough to look before it has passed. peers_survive: peers connected before a restart may be used after it.
    keeps_order_of_losses: what several peers lost, or retried one by one, comes back in the order of publishing, not in that of their
    deaths or retries. pauses_at_once: a queue that was paused lends nothing more, not even for a second. counts_exchanges: the overview
    tells what passed through exchanges, with the servers that the tests have.
    """

    quiet: float = 0.0
    patience: float = 0.0
    moves_time: bool = False
    time_stands: bool = False
    soon: float = 1.5
    peers_survive: bool = False
    keeps_order_of_losses: bool = True
    pauses_at_once: bool = True
    counts_exchanges: bool = True

    @abstractmethod
    async def start(self) -> None:
        """Bring the engine up."""

    @abstractmethod
    async def stop(self) -> None:
        """Kill the engine; it stays down until `start`."""

    @abstractmethod
    async def connect(self, *, deadline: float = 60.0) -> Peer:
        """Return a new peer, whose verbs fail after `deadline` seconds without an answer."""

    @abstractmethod
    async def drop_peers(self) -> None:
        """Have every connected peer vanish."""

    @abstractmethod
    def now(self) -> float:
        """Tell the time by which the engine judges delays."""

    @abstractmethod
    async def advance(self, seconds: float) -> None:
        """Let so many seconds pass."""

    async def restart(self, *, keep_peers: bool = False) -> None:
        """Kill the engine, and the peers with it unless they are kept, and bring it back on the same data."""
        await self.stop()
        if not keep_peers:
            await self.drop_peers()
        await self.start()

    async def close(self) -> None:
        """End peers and engine."""
        await self.drop_peers()
        await self.stop()
