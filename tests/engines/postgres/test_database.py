"""The tables are made once, and are refused where they are those of another release; what is said over the connection is answered in turn."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import psycopg
import pytest

from chappe.engines.postgres.blocking import PostgresPublisher
from chappe.engines.postgres.broker import PostgresBroker
from chappe.engines.postgres.database import Cursor, Database
from chappe.errors import CorruptStorage
from chappe.messages.envelope import Envelope, Publication
from chappe.messages.topology import Topology, bind

from ...servers import shared

# What older releases left: tables without a word of which they are, and with the word of another one.
OLDER = {
    "without a fingerprint": "create schema chappe; create table chappe.message (place bigint)",
    "with another fingerprint": "create schema chappe; create table chappe.message (place bigint);"
    " create table chappe.made_by (fingerprint text); insert into chappe.made_by values ('other')",
    "with an empty table": "create schema chappe; create table chappe.message (place bigint); create table chappe.made_by (fingerprint text)",
}


@pytest.fixture
def url(shared_servers: tuple[Path, int]) -> str:
    return shared.database(*shared_servers).url


@pytest.mark.parametrize("older", OLDER)
async def test_tables_of_another_release_are_refused_with_what_to_do(url: str, older: str) -> None:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute(OLDER[older].encode())
    broker = PostgresBroker(url, deadline=60.0)
    with pytest.raises(CorruptStorage, match=r'tables of another release of Chappe.*chappe move.*"drop schema chappe cascade"'):
        await broker.queues()
    publisher = PostgresPublisher(url, lambda: Topology(queues=(bind("q"),)), deadline=60.0)
    assert not publisher.takes([Publication(Envelope("m", "t", b"{}"), "q")])
    publisher.close()
    await broker.close()


async def test_tables_of_this_release_are_used_as_they_are(url: str) -> None:
    for _ in range(2):
        broker = PostgresBroker(url, deadline=60.0)
        await broker.declare(Topology(queues=(bind("q"),)))
        assert await broker.queues() == ["q"]
        await broker.close()


async def test_what_is_long_is_compressed_quickly_where_the_server_can(url: str) -> None:
    broker = PostgresBroker(url, deadline=60.0)
    await broker.queues()
    await broker.close()
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        found = await connection.execute(
            "select relname, attcompression::text from pg_attribute join pg_class on attrelid = pg_class.oid"
            " where relnamespace = 'chappe'::regnamespace and relkind = 'r' and attname in ('envelope', 'envelopes')"
        )
        methods = dict(await found.fetchall())
        known = await connection.execute("select 'lz4' = any(enumvals) from pg_settings where name = 'default_toast_compression'")
        expected = "l" if (await known.fetchone() or (False,))[0] else ""
    assert methods == dict.fromkeys(("message", "running", "dead", "archive"), expected)


async def _in_turn(cursor: Cursor) -> None:
    for statement in ("select 1", "select 2"):
        await cursor.execute(statement)


SAID: dict[str, Callable[[Database], Awaitable[object]]] = {
    "one statement": lambda database: database.once("select 1", ()),
    "a transaction": lambda database: database.run(_in_turn),
    "statements in a pipeline": lambda database: database.together([("select 1", ()), ("select 2", ())]),
}


@pytest.mark.parametrize("times", [1, 2], ids=["once", "again while it ends"])
@pytest.mark.parametrize("said", SAID)
async def test_what_is_said_after_something_was_cancelled_has_its_own_answer(url: str, said: str, times: int) -> None:
    database = Database(url, deadline=60.0)
    ((backend,),) = await database.once("select pg_backend_pid()", ())
    os.kill(backend, signal.SIGSTOP)  # nothing is answered
    try:
        saying = asyncio.ensure_future(SAID[said](database))
        for _ in range(10):
            await asyncio.sleep(0)
        for _ in range(times):
            saying.cancel()
            await asyncio.sleep(0)
    finally:
        os.kill(backend, signal.SIGCONT)
    with pytest.raises(asyncio.CancelledError):
        await saying
    async with asyncio.timeout(60.0):
        assert [await database.once("select %s::bigint", (number,)) for number in (7, 8, 9)] == [[(7,)], [(8,)], [(9,)]]
        assert await database.together([("select 3", ()), ("select 4", ())]) == [[(3,)], [(4,)]]
    await database.close()
