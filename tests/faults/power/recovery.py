"""Starts from what a power cut left, by the way the engine starts, and tells what is found."""

from __future__ import annotations

import collections
import functools
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final
from zlib import crc32

import apsw
import msgspec

from chappe.engines.file import preflight
from chappe.engines.file.archiving import events_of
from chappe.engines.file.database import Database
from chappe.engines.file.ledger import Ledger
from chappe.engines.file.seal import unseal

from .disk import Image
from .promises import Fact, Message, Wrong

_READY: Final = "select id, queue, message_id, rank, attempt, key, note, envelope from ready"
_DELAYED: Final = "select id, queue, message_id, rank, attempt, key, note, envelope, due from delayed"
_DEAD: Final = "select queue, message_id, rank, attempts, key, envelope, number, reason, history from dead"
_PENDING: Final = """select queue, key, id from pending p
    where not exists (select 1 from ready r where r.queue = p.queue and r.rank = p.rank and r.id = p.id and r.key = p.key)
    and not exists (select 1 from delayed d where d.due = p.due and d.id = p.id and d.key = p.key)"""
_NO_CHECKPOINT: Final = 1006  # SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE


def lay(image: Image, folder: Path) -> None:
    """Put the files of an image into an empty folder; all of them are older than this start of the machine."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for path, data in image.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).touch(mode=0o600)
        (folder / path).write_bytes(data)
        os.utime(folder / path, (0, 0))


def recover(path: Path, now: Callable[[], float], highest: int, judge: Callable[[dict[Fact, Any]], None]) -> None:
    """Open the file as the engine does, and have the facts in it judged; `highest` is the largest number that was ever lent.

    Raises `Wrong` if the judge does, and where what is found contradicts itself, whatever was promised.
    """
    try:
        preflight.refuse_folder(path)
        preflight.refuse_damaged_log(path)
        ledger = Ledger(path, now)
    except Exception as error:
        raise Wrong(f"the file cannot be opened: {type(error).__name__}: {error}") from error
    try:
        check = ledger.turn.db.execute("pragma integrity_check").fetchall()
        if check != [("ok",)]:
            raise Wrong(f"integrity_check: {check[:3]}")
        facts, largest = _facts(ledger)
        judge(facts)
        _refuse_contradictions(ledger, facts, max(largest, highest))
    except apsw.Error as error:
        raise Wrong(f"the file cannot be read: {type(error).__name__}: {error}") from error
    finally:
        ledger.turn.db.config(_NO_CHECKPOINT, 1)  # type: ignore[attr-defined]
        ledger.turn.db.close()


def _facts(ledger: Ledger) -> tuple[dict[Fact, Any], int]:
    db = ledger.turn.db
    names = {queue.id: queue.name for queue in ledger.turn.routes.queues.values()}
    facts: dict[Fact, Any] = {("queue", queue.name): queue.bindings for queue in ledger.turn.routes.queues.values()}
    facts |= {("exchange", e.name): (e.kind, e.archive) for e in ledger.turn.routes.exchanges.values()}
    largest = 0

    def put(queue: int, identity: str, message: Message) -> None:
        name = ("message", names.get(queue, f"queue {queue}"), identity)
        if name in facts:
            raise Wrong(f"{identity} is in {name[1]} twice: {facts[name].state} and {message.state}")
        facts[name] = message

    for number, queue, identity, rank, attempt, key, note, envelope in db.execute(_READY):
        largest = max(largest, number)
        put(queue, identity, Message("ready", rank, attempt, key, note, _sum(envelope)))
    for number, queue, identity, rank, attempt, key, note, envelope, due in db.execute(_DELAYED):
        largest = max(largest, number)
        put(queue, identity, Message("delayed", rank, attempt, key, note, _sum(envelope), due))
    for queue, identity, rank, attempts, key, envelope, number, reason, history in db.execute(_DEAD):
        more = (number, reason, len(msgspec.msgpack.decode(history)))
        put(queue, identity, Message("dead", rank, attempts, key, None, _sum(envelope), more))
    for exchange, at, *row in db.execute("select exchange, at, seq, routing_key, message_id, envelope, events from archive"):
        for seq, routing_key, identity, envelope in events_of(*row):
            facts["archive", seq] = (exchange, routing_key, identity, at, _sum(envelope))
    for scope, count in db.execute("select message_id, count(*) from failure group by message_id"):
        facts["failures", *_scope(scope, names)] = count
    for scope, count in db.execute("select message_id, count from death"):
        facts["deaths", *_scope(scope, names)] = count
    facts |= {
        ("mark", identity, handler): result for identity, handler, result in db.execute("select message_id, handler, result from mark")
    }
    facts |= {("schedule", name): slot for name, slot in db.execute("select name, slot from schedule")}
    facts |= {("unique", name): (i, until) for name, i, until in db.execute("select name, message_id, until from unique_key")}
    facts |= {("idempotency", name): (i, until) for name, i, until in db.execute("select name, message_id, until from idempotency")}
    facts |= {("tracked", i): (state, into, at) for i, state, into, at in db.execute("select message_id, state, into_id, at from tracked")}
    facts |= _clients(db)
    return facts, largest


def _clients(db: Database) -> dict[Fact, Any]:
    found: dict[Fact, Any] = {}
    for name, value in db.execute("select name, value from tally where name like 'client %'"):
        serial, _, at = msgspec.json.decode(value)
        found["client", name.removeprefix("client ")] = (serial, at)
    return found


def _refuse_contradictions(ledger: Ledger, facts: dict[Fact, Any], highest: int) -> None:
    rows = collections.Counter((name[1], fact.state) for name, fact in facts.items() if name[0] == "message")
    for queue in ledger.turn.routes.queues.values():
        counted = tuple(rows[queue.name, state] for state in ("ready", "delayed", "dead"))
        kept = (queue.rows, queue.delayed, queue.dead)
        if counted != kept:
            raise Wrong(f"the counters of {queue.name} are {kept}, the rows of ready, delayed and dead {counted}")
    seqs = sorted(name[1] for name in facts if name[0] == "archive")
    if seqs != list(range(seqs[0], seqs[0] + len(seqs)) if seqs else []):
        raise Wrong(f"the archive has gaps: {seqs}")
    lonely = ledger.turn.db.execute(_PENDING).fetchall()
    if lonely:
        raise Wrong(f"pending keys without their message: {lonely}")
    ledger.turn.write()
    number = ledger.turn.next_id()
    ledger.undo()
    if number <= highest:
        raise Wrong(f"number {number} is given again: {highest} was given before")


def _scope(scope: str, names: dict[int, str]) -> tuple[str, str]:
    queue, _, identity = scope.partition("/")
    return names.get(int(queue), queue), identity


@functools.lru_cache(4096)
def _sum(stored: bytes) -> int:
    return crc32(unseal(stored))
