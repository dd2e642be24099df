"""A process that sends, as a user's program does: `python -m benchmarks.sender HOW '{"count": 1000}'`.

It connects, says that it is ready, waits for a line, sends, and says when it began and ended and what CPU it took.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import random
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from benchmarks import cue
from benchmarks.application import Block, Bulk, Burn, Kept, Mask, Noop, Passing, Pause, Shared, Stamp, app
from benchmarks.payload import FIELDS, stamped
from chappe import Command, Event

_NOTE = "x" * 100


def one_by_one(count: int) -> None:
    """Send with the synchronous verb."""
    for _ in range(count):
        app.send(Noop(**FIELDS))


async def awaited_one_by_one(count: int) -> None:
    """Send with the asynchronous verb."""
    for _ in range(count):
        await app.asend(Noop(**FIELDS))


async def tasks(count: int, senders: int = 8) -> None:
    """Let eight tasks of one loop send at once."""
    await asyncio.gather(*(awaited_one_by_one(count // senders) for _ in range(senders)))


def threads(count: int, senders: int = 8) -> None:
    """Let eight threads send at once."""
    all_of_them = [threading.Thread(target=one_by_one, args=(count // senders,)) for _ in range(senders)]
    for thread in all_of_them:
        thread.start()
    for thread in all_of_them:
        thread.join()


def hundreds(count: int) -> None:
    """Send a hundred with each call."""
    for _ in range(count // 100):
        app.send([Noop(**FIELDS) for _ in range(100)])


def paced_events(count: int) -> None:
    """Publish ten events a second."""
    for _ in range(count):
        app.publish(Kept(**FIELDS))
        time.sleep(0.1)


def paced_bulk(count: int) -> None:
    """Publish ten large events a second, 8 MiB together."""
    event = Bulk(note="x" * (2**23 // count))
    for _ in range(count):
        app.publish(event)
        time.sleep(0.1)


def events(count: int, archived: int) -> None:
    """Publish a hundred events with each call."""
    event = (Kept if archived else Passing)(**FIELDS)
    for _ in range(count // 100):
        app.publish([event] * 100)


async def fill(count: int) -> None:
    """Make a backlog as fast as it goes."""
    message = Noop(**FIELDS)
    left = count
    waiting: set[asyncio.Task[Any]] = set()
    while left or waiting:
        while left and len(waiting) < 2:
            size = min(500, left)
            left -= size
            waiting.add(asyncio.create_task(app.asend([message] * size)))
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()


async def fill_shared(count: int, tenants: int, milliseconds: int = 0) -> None:
    """Make a backlog of tenants that send in turns."""
    for first in range(0, count, 500):
        numbers = range(first, min(count, first + 500))
        await app.asend([Shared(user=f"t{n % tenants}", at=0.0, seconds=milliseconds / 1000, note=_NOTE) for n in numbers])


async def behind(count: int, firsts: int, milliseconds: int) -> None:
    """Have one tenant send behind the backlog of another."""
    await fill_shared(count, 1, milliseconds)
    await app.asend([Shared(user="late", at=time.time(), seconds=milliseconds / 1000, note=_NOTE) for _ in range(firsts)])


def paced(count: int) -> None:
    """Send one every 10 ms."""
    cue.paced(count, lambda at: app.send(Stamp(**stamped(at))))


async def awaited_paced(count: int) -> None:
    """Send one every 10 ms from an event loop."""
    await cue.awaited_paced(count, lambda at: app.asend(Stamp(**stamped(at))))


def _mask(number: int, keys: int) -> Mask:
    return Mask(property_id=number % keys, nights=frozenset((number // keys,)), note=_NOTE)


def _mixed(count: int, keys: int) -> list[int]:
    """Return the numbers of masks in an order of this process's own: two who send at once do not go from property to property together."""
    numbers = list(range(keys, keys + count))
    random.Random(os.getpid()).shuffle(numbers)
    return numbers


def masks(count: int, keys: int) -> None:
    """Send masks of properties that have a pending one; each adds a night."""
    for number in _mixed(count, keys):
        app.send(_mask(number, keys))


async def awaited_masks(count: int, keys: int) -> None:
    """The same with the asynchronous verb."""
    for number in _mixed(count, keys):
        await app.asend(_mask(number, keys))


def masks_by_hundreds(count: int, keys: int) -> None:
    """Send a hundred masks of different properties with each call."""
    for first in range(keys, keys + count, 100):
        app.send([_mask(number, keys) for number in range(first, first + 100)])


def pauses(count: int, milliseconds: int) -> None:
    """Send triggers that wait, all at once."""
    app.send([Pause(at=time.time(), seconds=milliseconds / 1000)] * count)


def blocks(count: int, milliseconds: int) -> None:
    """Send triggers that block their thread, all at once."""
    app.send([Block(at=time.time(), seconds=milliseconds / 1000)] * count)


def blocks_one_by_one(count: int, milliseconds: int) -> None:
    """Send triggers that block their thread, one with each call."""
    began = time.time()
    for _ in range(count):
        app.send(Block(at=began, seconds=milliseconds / 1000))


def burns(count: int, seconds: int) -> None:
    """Send what computes for so long."""
    app.send([Burn(seconds=float(seconds))] * count)


def _repeatedly(count: int) -> None:
    """Send so many for each line that is read, and say how long each took."""
    for _ in sys.stdin:
        took: list[float] = []
        for _ in range(count):
            started = time.perf_counter()
            app.send(Noop(**FIELDS))
            took.append(time.perf_counter() - started)
        cue.tell(took)


_WAYS: dict[str, Callable[..., Any]] = {
    way.__name__: way
    for way in (
        one_by_one, awaited_one_by_one, tasks, threads, hundreds, fill, paced, awaited_paced, masks, awaited_masks, masks_by_hundreds,
        pauses, blocks, blocks_one_by_one, burns, events, paced_events, paced_bulk, fill_shared, behind,
    )
}  # fmt: skip


def _warm(how: str, sizes: dict[str, int]) -> Command | Event | list[Mask]:
    """Return what is sent before the clock starts: it connects, and makes keys pending."""
    if "masks" in how:
        return [_mask(number, sizes["keys"]) for number in range(sizes["keys"])]
    if how in ("paced_events", "paced_bulk"):
        return Pause(at=0.0, seconds=0.0)
    if "paced" in how:
        return Stamp(**stamped(0.0))
    if how == "pauses":
        return Pause(at=0.0, seconds=0.0)
    if how == "events":
        return (Kept if sizes["archived"] else Passing)(**FIELDS)
    return Block(at=0.0, seconds=0.0) if "blocks" in how else Noop(**FIELDS)


def main(how: str, sizes: dict[str, int]) -> None:
    """Send as told."""
    warm = _warm(how, sizes)
    if how == "repeatedly":
        app.send(warm)
        cue.tell("ready")
        _repeatedly(**sizes)
        return
    way = _WAYS[how]
    if not inspect.iscoroutinefunction(way):
        app.send(warm)
        cue.wait()
        watch = cue.Watch()
        way(**sizes)
        watch.tell()
        app.close()
        return

    async def run() -> None:
        await app.asend(warm)
        cue.wait()
        watch = cue.Watch()
        await way(**sizes)
        watch.tell()
        await app.aclose()

    asyncio.run(run())


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
