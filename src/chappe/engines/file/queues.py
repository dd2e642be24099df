"""What the engine holds in memory of each queue: how far it was served, what is lent, which keys are taken.

Nothing here grows with the backlog: only with what is lent, and with keys that others wait for.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from msgspec import Struct

# Flags of a stored message: what else must be tidied up when it ends.
# RETURNED, of a claim only: it was lent before, and who had it then may have begun it.
# SUSPECT: a worker died while it executed, so that it runs alone.
TRACKED, UNIQUE, HISTORY, MERGES, HOLDER, RETURNED, SUSPECT = 1, 2, 4, 8, 16, 32, 64


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


class Claim(NamedTuple):
    """A message that is lent to a session."""

    session: Session
    queue: QueueState
    rank: int
    id: int
    message_id: str
    attempt: int
    flags: int
    key: str | None


@dataclass(slots=True)
class Rank:
    """The messages of one priority in one queue: served by `cursor`, but first what came back."""

    cursor: int = 0
    exhausted: bool = False
    returned: list[int] = field(default_factory=list)

    def give_back(self, identity: int) -> None:
        """Remember a message that is ready again at its old place."""
        heapq.heappush(self.returned, identity)


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
    ranks: dict[int, Rank] = field(default_factory=dict)
    order: list[int] = field(default_factory=list)
    held: dict[str, int] = field(default_factory=dict)
    blocked: set[str] = field(default_factory=set)
    suspects: list[tuple[int, int]] = field(default_factory=list)  # rank and id of each that waits to run alone
    published: int = 0
    done: int = 0
    retried: int = 0
    died: int = 0
    closed: bool = False

    @property
    def counts(self) -> Counts:
        """What is stored of it."""
        return Counts(self.rows, self.delayed, self.dead, self.published, self.done, self.retried, self.died)

    def take(self, counts: Counts) -> None:
        """Be as it is stored."""
        self.rows, self.delayed, self.dead = counts.rows, counts.delayed, counts.dead
        self.published, self.done, self.retried, self.died = counts.published, counts.done, counts.retried, counts.died

    def rank(self, rank: int) -> Rank:
        """Return the state of one priority."""
        found = self.ranks.get(rank)
        if found is None:
            found = self.ranks[rank] = Rank()
            self.order = sorted(self.ranks)
        return found

    def arrived(self, rank: int, count: int) -> None:
        """Note that messages were stored behind the cursor."""
        self.rank(rank).exhausted = False
        self.rows += count
        self.published += count

    @property
    def servable(self) -> bool:
        """Whether there may be a message to lend; never false when there is one."""
        return any(not r.exhausted or r.returned for r in self.ranks.values())
