"""A process that sends to the limit's engine: `python -m benchmarks.peers.limit.sender one_by_one '{"count": 1000}'`.

It has nothing to do but to encode: no checks of the message, no routes, no identifiers.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from typing import Any, Final

import msgspec

from benchmarks import cue
from benchmarks.payload import FIELDS, stamped
from benchmarks.peers.limit.client import BlockingClient, Client, Row

_encode: Final = msgspec.json.Encoder().encode


def _noop() -> Row:
    return ("noop", "{}", _encode(FIELDS))


def _stamp(at: float) -> Row:
    return ("stamp", "{}", _encode(stamped(at)))


def one_by_one(client: BlockingClient, count: int) -> None:
    for _ in range(count):
        client.publish([_noop()])


def hundreds(client: BlockingClient, count: int) -> None:
    for _ in range(count // 100):
        client.publish([_noop() for _ in range(100)])


def paced(client: BlockingClient, count: int) -> None:
    cue.paced(count, lambda at: client.publish([_stamp(at)]))


async def awaited_one_by_one(client: Client, count: int) -> None:
    for _ in range(count):
        await client.publish([_noop()])


async def tasks(client: Client, count: int, senders: int = 8) -> None:
    await asyncio.gather(*(awaited_one_by_one(client, count // senders) for _ in range(senders)))


async def awaited_paced(client: Client, count: int) -> None:
    await cue.awaited_paced(count, lambda at: client.publish([_stamp(at)]))


_BLOCKING: Final[dict[str, Callable[..., Any]]] = {way.__name__: way for way in (one_by_one, hundreds, paced)}
_AWAITING: Final[dict[str, Callable[..., Any]]] = {way.__name__: way for way in (awaited_one_by_one, tasks, awaited_paced)}


async def _run(how: str, sizes: dict[str, int]) -> None:
    client = await Client.connect()
    cue.wait()
    watch = cue.Watch()
    await _AWAITING[how](client, **sizes)
    watch.tell()


def main(how: str, sizes: dict[str, int]) -> None:
    """Send as told."""
    if how in _AWAITING:
        asyncio.run(_run(how, sizes))
        return
    client = BlockingClient()
    cue.wait()
    watch = cue.Watch()
    _BLOCKING[how](client, **sizes)
    watch.tell()


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
