"""The process that owns the file: `python -m benchmarks.peers.limit.engine 100000` begins with so many messages waiting."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import sys
from typing import Any, NamedTuple, cast

import apsw

from benchmarks import cue
from benchmarks.payload import FIELDS
from benchmarks.peers.limit.wire import CLAIM, SOCKET, frame, frames

_TABLES = """
create table ready (id integer primary key, type text, headers text, body blob);
create table running (id integer primary key, type text, headers text, body blob, owner int, attempts int);
"""


class Claim(NamedTuple):
    """Somebody who waits for messages."""

    client: _Client
    serial: int
    limit: int


class Engine:
    """All that arrived in one turn of the loop becomes one transaction, which is answered when it is on the disk."""

    def __init__(self, count: int) -> None:
        self._database = apsw.Connection("limit.db")
        self._database.pragma("journal_mode", "wal")
        self._database.pragma("synchronous", 2)
        self._database.execute(_TABLES)
        body = json.dumps(FIELDS, separators=(",", ":")).encode()
        with self._database:
            self._database.executemany("insert into ready values (?, 'noop', '{}', ?)", [(number, body) for number in range(count)])
        self._numbers = itertools.count(count)  # SQLite would use those of messages again that are running still
        self._arrived: list[tuple[_Client, Any]] = []
        self._claims: list[Claim] = []

    def take(self, client: _Client, request: Any) -> None:
        """Keep a request for this turn's transaction."""
        if not self._arrived:
            asyncio.get_running_loop().call_soon(self._commit)
        self._arrived.append((client, request))

    def _commit(self) -> None:
        arrived, self._arrived = self._arrived, []
        answers: list[tuple[_Client, Any]] = []
        execute, many = self._database.execute, self._database.executemany
        execute("begin immediate")
        for client, (verb, serial, argument, limit) in arrived:
            if verb == CLAIM:
                many("delete from running where id = ?", [(done,) for done in argument])
                self._claims.append(Claim(client, serial, limit))
            else:
                many("insert into ready values (?, ?, ?, ?)", [(next(self._numbers), *row) for row in argument])
                answers.append((client, (serial, None)))
        while self._claims:
            client, serial, limit = self._claims[0]
            rows = execute("select id, type, headers, body from ready order by id limit ?", (limit,)).fetchall()
            if not rows:
                break
            span = (rows[0][0], rows[-1][0])
            execute("insert into running select id, type, headers, body, 1, 1 from ready where id between ? and ?", span)
            execute("delete from ready where id between ? and ?", span)
            del self._claims[0]
            answers.append((client, (serial, rows)))
        execute("commit")
        for client, answer in answers:
            client.transport.write(frame(answer))


class _Client(asyncio.Protocol):
    """One connection."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._buffer = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        for request in frames(self._buffer):
            self._engine.take(self, request)


def _give_up(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """End with what went wrong: everybody else would wait for answers."""
    loop.default_exception_handler(context)
    os._exit(1)


async def main(count: int) -> None:
    """Serve until ended."""
    asyncio.get_running_loop().set_exception_handler(_give_up)
    engine = Engine(count)
    server = await asyncio.get_running_loop().create_unix_server(lambda: _Client(engine), SOCKET)
    cue.tell("ready")
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
