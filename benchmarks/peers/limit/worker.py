"""A process that claims, decodes, calls a handler and claims again: `python -m benchmarks.peers.limit.worker`.

Two claims are under way, so that one batch is handled while the next travels; what was done leaves with the next claim.
A handler is stepped by hand, without a task of the event loop, as Chappe's workers do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final

import msgspec

from benchmarks import cue, tally
from benchmarks.peers.limit.client import Client


class Noop(msgspec.Struct):
    """What is drained."""

    id: int
    name: str
    user: str
    tags: list[str]
    note: str
    ok: bool
    ratio: float


class Stamp(msgspec.Struct):
    """What tells how long it took."""

    at: float
    id: int
    name: str
    user: str
    note: str


async def noop(command: Noop) -> None: ...


async def stamp(command: Stamp) -> None:
    tally.since(command.at)


HANDLERS: Final[dict[str, tuple[Callable[[bytes], Any], Callable[[Any], Coroutine[Any, Any, None]]]]] = {
    "noop": (msgspec.json.Decoder(Noop).decode, noop),
    "stamp": (msgspec.json.Decoder(Stamp).decode, stamp),
}


async def main() -> None:
    """Work until ended."""
    client = await Client.connect()
    cue.wait()
    claimed, next_ones = client.claim([]), client.claim([])
    while True:
        done: list[int] = []
        noops = 0
        for number, kind, _headers, body in await claimed:
            decode, handler = HANDLERS[kind]
            step = handler(decode(body))
            try:
                step.send(None)
            except StopIteration:
                done.append(number)
            noops += kind == "noop"
        if noops:
            tally.note(noops)
        claimed, next_ones = next_ones, client.claim(done)


if __name__ == "__main__":
    asyncio.run(main())
