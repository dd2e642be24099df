"""How long a message may take, and how old it may be: `timeout`, `kill_after` and `ttl`."""

from __future__ import annotations

import asyncio
from typing import Any

from chappe.bus.bus import Handle, Middleware
from chappe.bus.context import Context
from chappe.errors import Reject
from chappe.messages.capabilities import MessageSpec


class TimeLimits(Middleware):
    """Cancels an attempt after `timeout` seconds: it fails with `TimeoutError`, and is retried."""

    def wrap_handle(self, spec: MessageSpec, call_next: Handle) -> Handle:
        timeout = spec.timeout
        if timeout is None:
            return call_next

        async def limited(message: Any, context: Context) -> Any:
            limit = context.limit = asyncio.timeout(timeout)
            try:
                async with limit:
                    return await call_next(message, context)
            except TimeoutError as error:
                if limit.expired():
                    raise TimeoutError(f"took longer than its timeout of {timeout:g} s") from error
                raise

        return limited


class Expiry(Middleware):
    """Rejects a message that is older than its `ttl` when its turn comes."""

    def wrap_handle(self, spec: MessageSpec, call_next: Handle) -> Handle:
        ttl = spec.ttl
        if ttl is None:
            return call_next

        async def fresh(message: Any, context: Context) -> Any:
            age = context.age
            if age > ttl:
                raise Reject(f"expired: {age:.1f} s old, its ttl is {ttl:g} s")
            return await call_next(message, context)

        return fresh
