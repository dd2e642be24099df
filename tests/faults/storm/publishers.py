"""The publishers under the storm: programs that send, write down what they were told, and go on where a kill left them.

`python -m tests.faults.storm.publishers NAME KIND RATE` runs in the folder of the storm until the file `quiet` is there.
A name says what the message asks for: `+f` fails in its first attempt, `+e` yields an echo.
"""

from __future__ import annotations

import asyncio
import http.client
import itertools
import json
import os
import random
import sys
import time
import zlib
from collections.abc import Awaitable, Callable
from pathlib import Path

from chappe import BrokerUnavailable, Command, Unconfirmed
from chappe.errors import BrokerError
from chappe.messages.codec import encode_json
from tests.faults.storm.application import Mask, Pair, Step, Work, app, payload_of
from tests.faults.storm.journal import Journal, Reader

SENT = Path("sent")
QUIET = Path("quiet")
LANES = 8
LODGINGS = 40
BATCH = 50
_AGAIN = 0.1
_HTTP_PATIENCE = 8.0

Send = Callable[[Command, str], Awaitable[str]]


class NotTaken(Exception):
    """The message may be taken or not: say it again with the same key."""


def sizes(name: str) -> int:
    """Return how large the payload of a message is: 200 bytes mostly, now and then up to 64 KiB."""
    chance = zlib.crc32(name.encode()) % 1000
    return 64 * 1024 if chance < 4 else 2048 if chance < 100 else 200


def message_of(name: str) -> Command:
    """Build the message that a name asks for, the same each time."""
    kind, *rest = name.partition("+")[0].split(".")
    if kind == "mask":
        return Mask(lodging=zlib.crc32(name.encode()) % LODGINGS, fields=frozenset({name}))
    if kind == "step":
        return Step(name=name, lane=".".join(rest[:-1]), number=int(rest[-1]), fails="+f" in name)
    if kind == "pair":
        return Pair(name=name)
    return Work(name=name, payload=payload_of(name, sizes(name)), fails="+f" in name, echoes="+e" in name)


def flags_of(row: str, number: int) -> str:
    """Choose what a message of a row does besides."""
    if row.startswith("step"):
        return "+f" if number % 16 == 5 else ""
    if row.startswith("work"):
        return "+f" if number % 16 == 5 else "+e" if number % 8 in (2, 3) else ""
    return ""


class Pace:
    """Waits so that something happens at a rate; what an outage kept from happening is made up for."""

    def __init__(self, rate: float) -> None:
        self._gap = 1.0 / rate
        self._next = time.monotonic() + random.random() * self._gap

    async def wait(self) -> bool:
        """Wait for the next turn; say whether there is one."""
        self._next = max(self._next + self._gap, time.monotonic() - 5.0)
        while (pause := self._next - time.monotonic()) > 0:
            if QUIET.exists():
                return False
            await asyncio.sleep(min(pause, 0.2))
        return not QUIET.exists()


async def batches(journal: Journal, name: str, rate: float) -> None:
    """Send batches without keys: what is not confirmed or refused stays unknown."""
    pace = Pace(rate / BATCH)
    life = f"{name}.{os.getpid()}"
    numbers = itertools.count()
    while await pace.wait():
        turn = next(numbers)
        kinds = ("mask",) if turn % 5 == 0 else ("work",) * 7 + ("pair",)
        numbered = ((n, kinds[n % len(kinds)]) for n in range(turn * BATCH, (turn + 1) * BATCH))
        names = [f"{kind}.{life}.{n}{flags_of(kind, n)}" for n, kind in numbered]
        journal.write_all("attempt", names)
        try:
            await app.asend([message_of(n) for n in names])
        except Unconfirmed:
            journal.write_all("unknown", names)
        except BrokerUnavailable:  # masks take several turns, and an earlier one may have stored the first of them
            journal.write_all("unknown" if kinds == ("mask",) else "refused", names)
        else:
            journal.write_all("confirmed", names)


async def keyed(journal: Journal, send: Send, publisher: str, row: str, rate: float) -> None:
    """Send the messages of a row one by one, each with a key and until it is confirmed; first what a life before left open."""
    pace = Pace(rate)
    left, following = resumed(publisher, row)
    names = itertools.chain(left, (f"{row}.{number}{flags_of(row, number)}" for number in itertools.count(following)))
    while left or await pace.wait():
        name = next(names)
        if left:
            left.pop()
        journal.write("attempt", name)
        message = message_of(name)
        while True:
            try:
                identity = await send(message, name)
            except NotTaken as error:
                if str(error) not in ("", "503"):
                    journal.write("odd", name, str(error))
                await asyncio.sleep(_AGAIN)
                continue
            journal.write("confirmed", name, identity)
            break


async def by_python(message: Command, key: str) -> str:
    """Send with the application's own verb."""
    try:
        receipt = await app.asend(message, idempotency_key=key)
    except BrokerError as error:
        raise NotTaken from error
    return "" if isinstance(message, Mask) else receipt.id


class ByHttp:
    """Sends to the gateway, over one connection for as long as it lasts."""

    def __init__(self) -> None:
        self._port = int(os.environ["CHAPPE_PORT"])
        self._connection: http.client.HTTPConnection | None = None

    async def __call__(self, message: Command, key: str) -> str:
        return await asyncio.to_thread(self._post, message, key)

    def _post(self, message: Command, key: str) -> str:
        connection = self._connection or http.client.HTTPConnection("127.0.0.1", self._port, timeout=_HTTP_PATIENCE)
        self._connection = None
        try:
            headers = {"Content-Type": "application/json", "Idempotency-Key": key}
            connection.request("POST", f"/commands/{message.__spec__.name}", encode_json(message), headers)
            response = connection.getresponse()
            body = response.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise NotTaken from error
        self._connection = connection
        if response.status >= 500:
            raise NotTaken(str(response.status))
        assert response.status in (200, 202), f"{key}: {response.status} {body!r}"
        return "" if isinstance(message, Mask) else json.loads(body)["id"]


def resumed(publisher: str, row: str) -> tuple[list[str], int]:
    """Return what a row of names was attempted but not told about by a life before, and the next number."""
    open_names: dict[str, None] = {}
    following = 0
    for line in Reader(SENT, publisher).read():
        if not line.name.startswith(f"{row}."):
            continue
        if line.word == "attempt":
            open_names[line.name] = None
            following = max(following, int(line.name.partition("+")[0].rsplit(".", 1)[1]) + 1)
        elif line.word == "confirmed":
            open_names.pop(line.name, None)
    return list(open_names), following


async def main(name: str, kind: str, rate: float) -> None:
    """Publish until it is quiet."""
    journal = Journal(SENT, name)
    if kind == "batches":
        await batches(journal, name, rate)
    elif kind == "steps":
        rows = [f"step.{name}.{lane}" for lane in range(LANES)]
        await asyncio.gather(*(keyed(journal, by_python, name, row, rate / LANES) for row in rows))
    elif kind == "masks":
        rows = [f"mask.{name}.{part}" for part in range(4)]
        await asyncio.gather(*(keyed(journal, by_python, name, row, rate / 4) for row in rows))
    elif kind == "http":
        rows = [f"{what}.{name}.{part}" for part, what in enumerate(("work", "work", "mask", "step"))]
        await asyncio.gather(*(keyed(journal, ByHttp(), name, row, rate / 4) for row in rows))
    else:
        raise ValueError(kind)
    await app.aclose()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], float(sys.argv[3])))
