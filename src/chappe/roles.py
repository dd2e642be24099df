"""What somebody may do over HTTP, and the roles that put it together."""

from __future__ import annotations

from typing import Final

from msgspec import Struct

READ: Final = "read"  # everything that is stored, counted and logged
LOGS: Final = "logs"  # what processes write, and the stacks of what they do
FOLLOW: Final = "follow"  # events
SEND: Final = "send"  # commands, and ask after them
ACT: Final = "act"  # on messages, queues and schedules
ADMIN: Final = "admin"  # on the intake, the pools and the release
PROXY: Final = "proxy"  # speak for whom a header names, and nothing else

ROLES: Final[dict[str, frozenset[str]]] = {
    "reader": frozenset({READ, FOLLOW}),
    "sender": frozenset({SEND, FOLLOW}),
    "operator": frozenset({READ, LOGS, FOLLOW, SEND, ACT}),
    "admin": frozenset({READ, LOGS, FOLLOW, SEND, ACT, ADMIN}),
    "proxy": frozenset({PROXY}),
}


class Limits(Struct, frozen=True):
    """What of events and commands somebody may hear and send, and until when, in seconds since the epoch."""

    topics: tuple[str, ...]
    commands: frozenset[str]
    until: float


class Caller(Struct, frozen=True):
    """Somebody who speaks to the gateway, as the audit trail names them, and what they may do: all of it, unless there are limits."""

    name: str
    permissions: frozenset[str]
    limits: Limits | None = None


def refuse_unknown_role(role: str) -> None:
    """Raise `ValueError` for what is no role."""
    if role not in ROLES:
        raise ValueError(f'"{role[:50]}" is no role; roles are: {", ".join(ROLES)}')
