"""What an operator asks first, and what is wanted of the processes and queues of all hosts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Protocol

from msgspec import Struct

from chappe.messages.capabilities import Exchange

PAUSED: Final = "paused"
# What somebody may want something of, those with a colon with a name behind them.
QUEUE: Final = "queue:"
POOL: Final = "pool:"
SCHEDULE: Final = "schedule:"
INTAKE: Final = "intake"
RELOAD: Final = "reload"
TENANT: Final = "tenant:"
ACT: Final = "act:"
PROCESS_STATES: Final = ("ready", "starting", "waiting", "FATAL")  # of a pool, as its supervisor tells them


class Desired(Struct, frozen=True, array_like=True):
    """What somebody wants of one thing: of each `what` the latest counts, and the earlier ones are kept as the audit trail.

    `what` is `TENANT` and a name with its weight, which counts from the next message that is lent, in all queues; `POOL` and a name with
    how many processes, `QUEUE` or `SCHEDULE` and a name or `INTAKE` which may be `PAUSED`, `RELOAD`, or "failure:FINGERPRINT" which may be
    resolved or ignored; the value None means: as it is declared. Of `ACT` and a verb nothing is wanted any more: the value says what was
    done.
    """

    number: int
    what: str
    value: str | None
    who: str
    at: float


class EngineStatus(Struct, frozen=True, omit_defaults=True):
    """The engine itself: `path` says where it is, `full` whether its disk is; the rest is what one engine has and others do not."""

    path: str
    full: bool = False
    pid: int | None = None
    started_at: float | None = None
    turns: int | None = None
    sqlite: str | None = None
    postgres: str | None = None
    broker: str | None = None


class QueueStatus(Struct, frozen=True, omit_defaults=True):
    """A queue and how many of its messages are in each state; `is_estimate` says that what is large is not exact.

    `oldest` are the seconds since the message that is next was sent or due. `published`, `done`, `retried` and `died` count all that there
    ever were, where the engine does.
    """

    name: str
    bindings: tuple[tuple[str, str], ...]
    origin: str
    ready: int
    running: int
    delayed: int
    dead: int
    consumers: int
    temporary: bool = False
    is_estimate: bool = False
    paused: bool = False
    oldest: float | None = None
    published: int | None = None
    done: int | None = None
    retried: int | None = None
    died: int | None = None


class ClientStatus(Struct, frozen=True, omit_defaults=True):
    """A connected process: how many messages it holds, and in `info` what it says of itself."""

    name: str
    role: str
    holding: int
    info: dict[str, Any]
    connected_at: float | None = None


class Overview(Struct, frozen=True):
    """Everything that is declared and connected.

    `passed` says of exchanges how many messages were published there and how many were delivered to queues, where the engine counts that.
    """

    engine: EngineStatus
    queues: list[QueueStatus]
    exchanges: list[Exchange]
    clients: list[ClientStatus]
    passed: dict[str, tuple[int, int]] = {}

    @property
    def supervisors(self) -> list[dict[str, Any]]:
        """What the supervisors tell of their hosts."""
        return [client.info for client in self.clients if client.role == "supervisor" and "pools" in client.info]


class Fleet(Protocol):
    """Everything that is connected."""

    async def engine(self) -> EngineStatus:
        """Tell of the engine itself without counting what waits in it."""
        ...

    async def overview(self) -> Overview:
        """Tell everything an operator asks first, at a cost that does not grow with what waits: counts are kept, or bounded."""
        ...

    async def tell(self, info: Mapping[str, Any]) -> None:
        """Replace what `overview` shows of this process, for as long as it is connected."""
        ...

    async def desire(self, what: str, value: str | None, who: str) -> Desired:
        """Remember what somebody wants; larger numbers are later.

        A queue that is desired to be `PAUSED` lends nothing more but what is being lent at this moment (plain messages of
        RabbitMQ for up to a second), and what runs goes on. Raises
        `NotFound` for an undeclared queue, `Rejected` for what is no weight.
        """
        ...

    async def desired(self, *, after: int = 0, every: bool = False, limit: int = 1000) -> list[Desired]:
        """Return what is wanted now of each thing about which somebody said something later than `after`, in that order.

        `every` returns all that was said, up to `limit`, the latest last.
        """
        ...
