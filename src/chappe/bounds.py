"""The bounds that hold wherever messages wait: how far away a moment may be, how long things are kept, how often a message may kill."""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Meta

FURTHEST: Final = 100 * 366 * 86400.0  # seconds: what is further away than a century is a mistake
Seconds = Annotated[float, Meta(ge=0, le=FURTHEST)]
Number = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]  # what SQLite, PostgreSQL and RabbitMQ can hold
RESULTS_KEPT: Final = 24 * 3600.0  # seconds for which the state of a tracked message is known after its end
IDEMPOTENCY_KEPT: Final = 24 * 3600.0
BUDGETS_KEPT: Final = 24 * 3600.0  # seconds after the last use of a budget
STARTS_AHEAD: Final = 0.05  # seconds before a start of a budget in which it may be taken, and is waited for in a slot
CLOCKS_APART: Final = 60.0  # seconds: two hosts' clocks differ by less
DEATHS_ALLOWED: Final = 3  # of workers, while they run one message: then it is a dead letter
