"""A process that sends without a pause, one kind of messages: `python -m tests.faults.rounds.publisher KIND RATE`; ends when `quiet` is there.

Of each call it writes when it began, how it ended and when. What was refused is never sent again: each name is sent once, or not known.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
import time
from pathlib import Path

from chappe import Command
from chappe.cli.logs import set_up
from chappe.errors import BrokerUnavailable, Unconfirmed
from tests.faults.rounds.application import KEYS, Mask, Step, Stumble, app, write

_PAUSE = 0.05


class _Pace:
    """Holds a rate, and does not catch up on what it missed."""

    def __init__(self, rate: float) -> None:
        self._every = 1 / rate
        self._due = time.monotonic()

    def wait(self) -> float:
        """Return the seconds until the next call."""
        now = time.monotonic()
        self._due = max(self._due + self._every, now)
        return self._due - now


def _messages(kind: str, number: int) -> tuple[list[Command], list[str]]:
    name = f"{kind}.{os.getpid()}.{number}"
    if kind == "steps":
        return [Step(name=name)], [name]
    if kind == "batches":
        names = [f"{name}.{n}" for n in range(20)]
        return [Step(name=one) for one in names], names
    if kind == "stumbles":
        return [Stumble(name=name)], [name]
    return [Mask(property_id=number % KEYS, names=frozenset((name,)))], [name]


def _ended(names: list[str], error: BaseException | None) -> None:
    word = "confirmed" if error is None else "unknown" if isinstance(error, Unconfirmed) else "refused"
    write(word, *names)


def _threaded(kind: str, rate: float, quiet: Path) -> None:
    """Send with the synchronous verb."""
    pace = _Pace(rate)
    for number in itertools.count():
        if quiet.exists():
            return
        time.sleep(pace.wait())
        messages, names = _messages(kind, number)
        write("attempt", *names)
        try:
            app.send(messages)
        except (BrokerUnavailable, Unconfirmed) as error:
            _ended(names, error)
            time.sleep(_PAUSE)
        else:
            _ended(names, None)


async def _looped(kind: str, rate: float, quiet: Path) -> None:
    """Send with the asynchronous verb."""
    pace = _Pace(rate)
    for number in itertools.count():
        if quiet.exists():
            break
        await asyncio.sleep(pace.wait())
        messages, names = _messages(kind, number)
        write("attempt", *names)
        try:
            await app.asend(messages)
        except (BrokerUnavailable, Unconfirmed) as error:
            _ended(names, error)
            await asyncio.sleep(_PAUSE)
        else:
            _ended(names, None)
    await app.aclose()


def main(kind: str, rate: float) -> None:
    """Send until it is quiet."""
    quiet = Path(os.environ["ROUNDS_FOLDER"]) / "quiet"
    set_up(app.settings, kind)
    if kind in ("steps", "masks"):
        _threaded(kind, rate, quiet)
        app.close()
    else:
        asyncio.run(_looped(kind, rate, quiet))


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
