"""How messages of one type in one queue are decoded, handled and judged: found out once."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from chappe.bus.bus import Bus, Handle
from chappe.bus.context import Context
from chappe.engines.contract.broker import Dead, Delivery, Retry
from chappe.errors import NoHandler, UnknownMessage
from chappe.failures import summarize
from chappe.messages.codec import decoder
from chappe.middleware.retries import Retries
from chappe.worker.verdict import not_understood

log = logging.getLogger("chappe.worker")

Judge = Callable[[Context, BaseException], BaseException]


class Plan(NamedTuple):
    """What a worker does with each message of one type in one queue; `judge` says what an error amounts to."""

    decode: Callable[[bytes], Any]
    handle: Handle
    kill_after: float | None
    judge: Judge
    is_fair: bool


class Plans(dict[tuple[str, str, str], Plan]):
    """The plans that were found, by the type, the queue and the content type of a message."""

    def __init__(self, bus: Bus, deploy_window: float) -> None:
        """Find nothing yet; for `deploy_window` seconds what is not known here is returned for workers of other releases."""
        super().__init__()
        self._bus = bus
        self._deploy_window = deploy_window
        self._told: set[str] = set()

    async def find(self, delivery: Delivery) -> Plan:
        """Find the plan for a delivery; raises `UnknownMessage`, `NoHandler`, `msgspec.DecodeError`, and what a provider raises."""
        envelope, queue = delivery.envelope, delivery.queue
        found = self[envelope.type, queue, envelope.content_type] = await _plan_of(self._bus, envelope.type, queue, envelope.content_type)
        return found

    def refusal(self, delivery: Delivery, error: BaseException) -> Retry | Dead:
        """Return the settlement of what cannot be found or decoded here: another release may know it, unless it is no JSON at all."""
        kind, identity = delivery.envelope.type, delivery.envelope.id
        known = not isinstance(error, UnknownMessage | NoHandler)
        text = f"{kind}: {summarize(error)}" if known else str(error)
        if known and not isinstance(error, msgspec.ValidationError):
            return Dead(delivery.tag, "undecodable", text)
        reason = "undecodable" if known else "unknown message"
        settlement = not_understood(delivery, reason, text, now=time.time(), window=self._deploy_window)
        if isinstance(settlement, Retry) and text not in self._told:
            self._told.add(text)
            window = self._deploy_window
            log.warning("%s %s is returned for a worker of another release, for %g s (deploy_window): %s", kind, identity, window, text)
        return settlement


async def _plan_of(bus: Bus, name: str, queue: str, content_type: str) -> Plan:
    """Return a plan in which `Retries`, where it is there, judges all that is raised."""
    kind = bus.registry.message(name)
    retries = next((m for m in bus.middleware if isinstance(m, Retries)), None)
    judge = _as_it_is if retries is None else functools.partial(retries.judge, kind.__spec__.retry)
    spec = kind.__spec__
    ends_worker = None if spec.process is not None and bus.isolate is not None else spec.kill_after
    return Plan(decoder(kind, content_type), await bus.handle_of(kind, queue), ends_worker, judge, spec.fair is not None)


def _as_it_is(_: Context, error: BaseException) -> BaseException:
    return error
