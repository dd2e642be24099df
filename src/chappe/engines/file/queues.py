"""What the engine holds in memory of each queue and each client; nothing here grows with the backlog."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from msgspec import Struct

from chappe.engines.dispatch import SUSPECT, Line
from chappe.engines.fairness import Shares

# Flags of a stored message: what else must be tidied up when it ends.
# RETURNED, of a claim only: it was lent before, and who had it then may have begun it.
TRACKED, UNIQUE, HISTORY, MERGES, HOLDER, RETURNED, HAS_FILE = 1, 2, 4, 8, 16, 32, 256


class Counts(Struct, array_like=True, frozen=True, gc=False):
    """How many messages of a queue are in each state, and what became of all that there ever were."""

    rows: int = 0
    delayed: int = 0
    dead: int = 0
    published: int = 0
    done: int = 0
    retried: int = 0
    died: int = 0


class Session:
    """One connected client; what it holds is given back when it ends."""

    def __init__(self, name: str = "", role: str = "client") -> None:
        self.name = name
        self.role = role
        self.info: dict[str, Any] = {}
        self.claims: dict[int, Claim] = {}
        self.last_seen = 0.0
        self.serial = 0
        self.for_suspects = False  # whether it takes nothing but suspects

    @property
    def runs_suspect(self) -> bool:
        """Whether it holds a suspect, and so gets nothing beside it."""
        return len(self.claims) == 1 and bool(next(iter(self.claims.values())).flags & SUSPECT)


class Claim(Struct, frozen=True, eq=False):
    """A message that is lent to a session."""

    session: Session
    queue: QueueState
    rank: int
    id: int
    message_id: str
    attempt: int
    flags: int
    key: str | None
    tenant: str | None = None
    lent_at: float = 0.0  # where it has a tenant

    @property
    def scope(self) -> str:
        """The name under which its failures and deaths are remembered."""
        return f"{self.queue.id}/{self.message_id}"


@dataclass(slots=True, eq=False)
class QueueState:
    """One queue. Its `Counts` are kept in the file, the rest only here. A temporary one goes with its `owner`."""

    id: int
    name: str
    bindings: tuple[tuple[str, str], ...]
    origin: str
    owner: str = ""
    rows: int = 0
    delayed: int = 0
    dead: int = 0
    running: int = 0
    published: int = 0
    done: int = 0
    retried: int = 0
    died: int = 0
    paused: bool = False  # whether nothing of it is lent
    line: Line = field(default_factory=Line)

    def shares(self, weights: Mapping[str, float]) -> Shares:
        """Return the shares of its tenants; from the first time on it has some."""
        if self.line.shares is None:
            self.line.shares = Shares(weights)
        return self.line.shares

    @property
    def counts(self) -> Counts:
        """What is stored of it."""
        return Counts(self.rows, self.delayed, self.dead, self.published, self.done, self.retried, self.died)

    def take(self, counts: Counts) -> None:
        """Be as it is stored."""
        self.rows, self.delayed, self.dead = counts.rows, counts.delayed, counts.dead
        self.published, self.done, self.retried, self.died = counts.published, counts.done, counts.retried, counts.died

    def arrive(self, rank: int, tenant: str | None, number: int) -> None:
        """Note that a message is ready, behind all others."""
        lane = self.line.lane(rank, tenant, number - 1)
        if tenant is None:
            lane.exhausted = False
        else:
            lane.arrive(number)

    def arrived(self, rank: int, count: int, tenant: str | None = None, number: int = 0) -> None:
        """Note that messages were stored behind all others; `number` is that of one with a tenant."""
        self.arrive(rank, tenant, number)
        self.rows += count
        self.published += count


def listed(names: object) -> list[object]:
    """Return what a client says is a list, as one."""
    return cast("list[object]", names) if isinstance(names, list) else []
