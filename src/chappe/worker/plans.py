"""How messages of one type in one queue are decoded, handled and judged: found out once."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from chappe.bus.bus import Bus, Handle
from chappe.bus.context import Context
from chappe.middleware.retries import Retries

Judge = Callable[[Context, BaseException], BaseException]


class Plan(NamedTuple):
    """What a worker does with each message of one type in one queue; `judge` says what an error amounts to."""

    decode: Callable[[bytes], Any]
    handle: Handle
    kill_after: float | None
    judge: Judge
    is_fair: bool


async def plan_of(bus: Bus, name: str, queue: str, content_type: str) -> Plan:
    """Return the plan for a type of message; raises `UnknownMessage`, `NoHandler`, `msgspec.DecodeError`, and what a provider raises.

    `Retries` judges also what is raised outside of it, so that all that fails follows one policy.
    """
    kind = bus.registry.message(name)
    retries = next((m for m in bus.middleware if isinstance(m, Retries)), None)
    judge = _as_it_is if retries is None else functools.partial(retries.judge, kind.__spec__.retry)
    spec = kind.__spec__
    ends_worker = None if spec.process is not None and bus.isolate is not None else spec.kill_after
    return Plan(bus.decoder_of(kind, content_type), await bus.handle_of(kind, queue), ends_worker, judge, spec.fair is not None)


def _as_it_is(_: Context, error: BaseException) -> BaseException:
    return error
