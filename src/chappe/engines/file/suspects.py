"""Who runs the messages that a worker died with: each alone, so that the next death is its own.

A session that holds nothing takes one; sessions that are there for suspects alone come first, and where none is, one is kept free.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from typing import Final

from chappe.engines.file.queues import QueueState, Session

DRAINED_AFTER: Final = 5.0  # seconds that a suspect waits for a session that is free by itself
AWAITED: Final = 10.0  # seconds that a session for suspects, which died of one, has to come back


class Suspects:
    """What waits to run alone, and the sessions that may run it."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._since: dict[QueueState, float] = {}  # the queues in which some wait
        self._apart: dict[Session, frozenset[str]] = {}
        self._awaited: dict[str, float] = {}
        self._drained: set[Session] = set()

    @property
    def wait(self) -> bool:
        """Whether there are any."""
        return bool(self._since)

    def add(self, queue: QueueState, rank: int, identity: int) -> None:
        """Have a message wait to run alone."""
        heapq.heappush(queue.line.suspects, (rank, identity))
        self._since.setdefault(queue, self._now())

    def load(self, queue: QueueState) -> None:
        """Hear that what waits in a queue was read from the file."""
        if queue.line.suspects:
            self._since.setdefault(queue, self._now())
        else:
            self.taken(queue)

    def taken(self, queue: QueueState) -> None:
        """Note that some of a queue were taken: what still waits there waits from now on."""
        if queue.line.suspects:
            self._since[queue] = self._now()
        elif self._since.pop(queue, None) is not None and not self._since:
            self._drained.clear()

    def open(self, session: Session, queues: Iterable[str]) -> None:
        """Hear of a session that takes nothing but suspects of these queues."""
        session.for_suspects = True
        self._apart[session] = frozenset(queues)

    def close(self, session: Session) -> None:
        """Hear that a session has ended."""
        self._drained.discard(session)
        for queue in self._apart.pop(session, ()):
            self._awaited[queue] = self._now() + AWAITED

    def may_take(self, session: Session, queue: QueueState) -> bool:
        """Tell whether a session may run a suspect of a queue now."""
        return not session.claims and (session.for_suspects or not self._has_others(queue))

    def _has_others(self, queue: QueueState) -> bool:
        """Tell whether sessions that are there for suspects alone serve a queue, or will in a moment."""
        return any(queue.name in served for served in self._apart.values()) or self._awaited.get(queue.name, 0.0) > self._now()

    def drain(self, waiting: Iterable[tuple[Session, list[QueueState]]]) -> None:
        """Choose who is kept free for suspects that have waited long: of the sessions that wait for deliveries the one with the least."""
        for queue, since in self._since.items():
            if self._now() < since + DRAINED_AFTER or self._has_others(queue):
                continue
            serving = [session for session, queues in waiting if queue in queues and not session.for_suspects]
            if serving and not self._drained.intersection(serving):
                self._drained.add(min(serving, key=lambda session: len(session.claims)))

    def keeps_free(self, session: Session) -> bool:
        """Tell whether nothing but a suspect is lent to a session."""
        return session.for_suspects or session in self._drained
