"""How nimbus tells a sender, later, what it made of a message: posts to the sender's callback."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import Final
from urllib.parse import urlsplit

import httpx2
import msgspec
from msgspec import Struct

SENDERS: Final = 8
ATTEMPTS: Final = 5
SHORTEST: Final = 0.010
LONGEST: Final = 0.200


class Confirmation(Struct, frozen=True):
    """The body of a callback: this message was taken ("ok") or refused, with a code."""

    message_id: str
    listing: str
    status: str
    code: str | None


def is_loopback(url: str) -> bool:
    """Tell whether a callback stays on this machine; nobody else is ever called."""
    try:
        parts = urlsplit(url)
        return parts.scheme == "http" and parts.hostname in ("127.0.0.1", "localhost", "::1")
    except ValueError:
        return False


class Confirmations:
    """Posts confirmations 10–200 ms after they were asked for, in no certain order, each until it is taken or given up."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._due: asyncio.Queue[tuple[str, Confirmation, int, int]] = asyncio.Queue()
        self._delays = random.Random(1)
        self._generation = 0
        self._waiting = 0

    @property
    def pending(self) -> int:
        """How many were asked for and neither taken nor given up."""
        return self._waiting

    def later(self, callback: str, confirmation: Confirmation) -> None:
        """Confirm soon; returns at once."""
        self._waiting += 1
        self._after(self._delays.uniform(SHORTEST, LONGEST), callback, confirmation, 1)

    def forget(self) -> None:
        """Drop what is pending."""
        self._generation += 1
        self._waiting = 0
        self.counts.clear()

    async def run(self) -> None:
        """Post what is due, until cancelled."""
        limits = httpx2.Limits(max_connections=SENDERS, max_keepalive_connections=SENDERS)
        # trust_env=False: a proxy of the environment must not stand between two processes of one machine.
        async with httpx2.AsyncClient(timeout=5.0, limits=limits, trust_env=False) as http, asyncio.TaskGroup() as group:
            for _ in range(SENDERS):
                group.create_task(self._send(http))

    def _after(self, delay: float, callback: str, confirmation: Confirmation, attempt: int) -> None:
        asyncio.get_running_loop().call_later(delay, self._due.put_nowait, (callback, confirmation, attempt, self._generation))

    async def _send(self, http: httpx2.AsyncClient) -> None:
        while True:
            callback, confirmation, attempt, generation = await self._due.get()
            if generation != self._generation:
                continue
            try:
                answer = await http.post(callback, content=msgspec.json.encode(confirmation), headers={"content-type": "application/json"})
                taken = answer.is_success
            except (httpx2.HTTPError, httpx2.InvalidURL):
                taken = False
            if generation != self._generation:
                continue
            if not taken and attempt < ATTEMPTS:
                self.counts["repeated"] += 1
                self._after(0.1 * 2**attempt, callback, confirmation, attempt + 1)
            else:
                self.counts["taken" if taken else "given up"] += 1
                self._waiting -= 1
