"""Faults planted into Chappe on purpose: a harness that does not catch one has no teeth.

A plant changes chappe inside the process that calls `plant`. Processes that a test starts get it by their environment:
`environment(name)` gives the variables that make `site/sitecustomize.py` plant it in every Python process below.
Nothing in `src/` knows of this. To add one: a function with `@planted(...)` that imports what it changes, and changes it.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]
SITE = Path(__file__).parent / "site"
VARIABLE = "CHAPPE_PLANT"


class Plant(NamedTuple):
    """One fault: what it breaks, in a sentence, and the harness that must catch it."""

    name: str
    says: str
    harness: str
    apply: Callable[[], None]


PLANTS: dict[str, Plant] = {}


def planted(harness: str, says: str) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Register a plant; its name is that of the function, with dashes."""

    def register(apply: Callable[[], None]) -> Callable[[], None]:
        name = apply.__name__.replace("_", "-")
        assert name not in PLANTS, name
        PLANTS[name] = Plant(name, says, harness, apply)
        return apply

    return register


def plant(name: str) -> None:
    """Plant a fault in this process."""
    PLANTS[name].apply()


def of(harness: str) -> list[str]:
    """Return the names of the plants that a harness must catch."""
    return [plant.name for plant in PLANTS.values() if plant.harness == harness]


def environment(name: str | None = None) -> dict[str, str]:
    """Return the variables with which a child process finds `tests`, and carries the plant if one is named."""
    before = os.environ.get("PYTHONPATH")
    paths = [str(ROOT), *([before] if before else [])]
    if name is None:
        return {"PYTHONPATH": os.pathsep.join(paths)}
    assert name in PLANTS, name
    return {"PYTHONPATH": os.pathsep.join([str(SITE), *paths]), VARIABLE: name}


# --- for the storm


@planted("storm", "the worker acknowledges when it takes a message up, not when its handlers returned")
def ack_before_handler() -> None:
    from chappe.engines.contract.broker import Ack
    from chappe.worker.worker import Worker

    run = Worker._run

    async def early(self: Any, delivery: Any) -> Any:
        await self._consumer.settle([Ack(delivery.tag)])
        return await run(self, delivery)

    Worker._run = early


@planted("storm", "a retry is acknowledged before the next attempt is stored")
def retry_acked_before_it_is_published() -> None:
    import asyncio

    import msgspec

    from chappe.engines.contract.broker import Ack, Retry
    from chappe.messages.envelope import Publication
    from chappe.worker.worker import Worker

    run = Worker._run

    async def gap(self: Any, delivery: Any) -> Any:
        attempt = int(delivery.envelope.headers.get("attempt", 0)) + delivery.attempt
        settlement = await run(self, msgspec.structs.replace(delivery, attempt=attempt))
        if not isinstance(settlement, Retry) or not settlement.counted:
            return settlement
        await self._consumer.settle([Ack(delivery.tag)])
        await asyncio.sleep(0.2)
        again = msgspec.structs.replace(delivery.envelope, headers={"attempt": str(attempt)})
        await self._consumer._client.call("publish", [Publication(again, delivery.queue, delay=settlement.after)])
        return Ack(delivery.tag)

    Worker._run = gap


@planted("storm", "what a client held is not given back when its connection is closed")
def claims_never_given_back() -> None:
    from chappe.engines.file.endings import Endings

    Endings.give_back = lambda self, session, account, who="": None


@planted("storm", "a handler is marked as finished before it ran")
def mark_before_handler() -> None:
    from chappe.bus import bus

    in_order = bus._in_order

    def early(invokes: Any) -> Any:
        async def marked(name: str, invoke: Any, message: Any, context: Any) -> Any:
            if name != invokes[-1][0]:
                await context.ports.mark(context.id, name, [], None)
            return await invoke(message, context)

        return in_order([(name, functools.partial(marked, name, invoke)) for name, invoke in invokes])

    bus._in_order = early


@planted("storm", "publications are answered before they are committed")
def answer_before_commit() -> None:
    import time

    from chappe.engines.file.turn import Turn

    commit, latest = Turn.commit, [0.0]

    def late(self: Any) -> None:
        if time.monotonic() - latest[0] > 0.05:
            latest[0] = time.monotonic()
            commit(self)

    Turn.commit = late


@planted("storm", "idempotency keys are not stored with their messages")
def keys_not_stored() -> None:
    from chappe.engines.file.verbs import Verbs
    from chappe.messages.envelope import changed

    publish = Verbs.publish

    def forgetful(self: Any, session: Any, posted: list[Any]) -> list[Any]:
        for p in posted:
            if p.options is not None:
                p.options = changed(p.options, idempotency_key=None, fingerprint=None)
        return publish(self, session, posted)

    Verbs.publish = forgetful


@planted("storm", "a late settlement is accepted from whoever held the message once")
def fencing_off() -> None:
    from chappe.engines.file.dispatch import Dispatch
    from chappe.engines.file.endings import Endings

    adopt = Dispatch.adopt
    Endings.claim_of = lambda self, session, tag: self._turn.claims.get(tag)
    Dispatch.adopt = lambda self, session, held: [*adopt(self, session, held), *(tag for _, tag in held if tag in self._turn.claims)]


@planted("storm", "of two masks that merge, only the newer is kept")
def merge_drops_a_field() -> None:
    from chappe.bus.merging import Merger

    combine = Merger._combine

    def newest(self: Any, older: Any, newer: Any) -> Any:
        import msgspec

        merged = combine(self, older, newer)
        return msgspec.structs.replace(merged, envelope=msgspec.structs.replace(merged.envelope, body=newer.envelope.body))

    Merger._combine = newest


@planted("storm", "messages of one key run side by side")
def key_order_ignored() -> None:
    from msgspec.structs import replace

    from chappe.middleware.queueing import Queueing

    wrap = Queueing.wrap_send
    Queueing.wrap_send = lambda self, spec, call_next: wrap(self, spec if spec.merges else replace(spec, key=None), call_next)


@planted("storm", "after a reconnection the client takes what was in flight for stored")
def client_confirms_blindly() -> None:
    from chappe.engines.file.client import Client

    Client._is_stored = lambda self, call, stored, refused: call.sent and call.verb == "publish"


@planted("storm", "what a handler yields is sent on its own before the acknowledgement")
def yields_leave_before_the_ack() -> None:
    import asyncio

    import msgspec

    from chappe.worker.worker import Worker

    run = Worker._run

    async def apart(self: Any, delivery: Any) -> Any:
        from chappe.engines.contract.broker import Ack

        settlement = await run(self, delivery)
        if isinstance(settlement, Ack) and settlement.then:
            await self._consumer._client.call("publish", settlement.then)
            await asyncio.sleep(0.1)
            return msgspec.structs.replace(settlement, then=())
        return settlement

    Worker._run = apart


# --- for the power cuts: what must be one commit is two, or is not on the disk when it is promised


@planted("power", "a commit is not synced, only the checkpoint is (synchronous=NORMAL)")
def commits_not_synced() -> None:
    from chappe.engines.file import database

    database._PRAGMAS["synchronous"] = 1


@planted("power", "nothing is ever synced (synchronous=OFF)")
def nothing_synced() -> None:
    from chappe.engines.file import database

    database._PRAGMAS["synchronous"] = 0


@planted("power", "an answer leaves before the commit")
def answered_before_the_commit() -> None:
    from chappe.engines.file.server import Engine

    perform = Engine._perform

    def performing(self: Any, connection: Any, request: Any) -> None:
        perform(self, connection, request)
        connection.flush()

    Engine._perform = performing


@planted("power", "no folder is synced after a file was made in it, neither by Chappe nor by SQLite")
def folders_not_synced() -> None:
    import types

    from chappe.engines.file import database, owner
    from tests.faults.power import vfs

    for module in (database, owner):
        module.os = types.SimpleNamespace(**{**vars(os), "fsync": lambda handle: None})
    vfs.SQLITE_SYNCS_FOLDERS = False


@planted("power", "a batch is stored in two commits")
def batch_in_two_commits() -> None:
    from chappe.engines.file.verbs import Verbs

    publish = Verbs.publish

    def halves(self: Any, session: Any, posted: Any) -> Any:
        first = publish(self, session, posted[: len(posted) // 2]) if len(posted) > 1 else []
        self._turn.commit()
        return first + publish(self, session, posted[len(first) :])

    Verbs.publish = halves


@planted("power", "what an acknowledgement publishes is stored a commit before it")
def published_a_commit_before_the_ack() -> None:
    from chappe.engines.file.verbs import Verbs

    publish = Verbs._publish_with

    def apart(self: Any, settlement: Any) -> Any:
        refusal = publish(self, settlement)
        self._turn.commit()
        return refusal

    Verbs._publish_with = apart


@planted("power", "what an acknowledgement publishes is stored a commit after it")
def published_a_commit_after_the_ack() -> None:
    import msgspec

    from chappe.engines.file.verbs import AckRequest, Verbs

    settle = Verbs.settle

    def apart(self: Any, session: Any, settlements: Any) -> Any:
        refused = settle(self, session, [msgspec.structs.replace(s, then=[]) if isinstance(s, AckRequest) else s for s in settlements])
        self._turn.commit()
        for settlement in settlements:
            if isinstance(settlement, AckRequest) and settlement.then and settlement.delivery not in {r[0] for r in refused}:
                self._publish_with(settlement)
        return refused

    Verbs.settle = apart


@planted("power", "an event is archived a commit after it was stored")
def archived_a_commit_later() -> None:
    _commit_before("insert into archive")


@planted("power", "the counters of a queue are stored a commit after its rows")
def counted_a_commit_later() -> None:
    from chappe.engines.file.turn import Turn

    save = Turn._save_counters

    def later(self: Any) -> None:
        self.db.execute("commit")
        self.db.execute("begin immediate")
        save(self)

    Turn._save_counters = later


@planted("power", "the slot of a schedule is remembered a commit before its messages are stored")
def slot_remembered_a_commit_before() -> None:
    from chappe.engines.file.records import Records

    fire = Records.fire

    def apart(self: Any, schedule: Any, slot: Any, posted: Any) -> Any:
        fired, receipts = fire(self, schedule, slot, [])
        self._turn.commit()
        if fired:
            self._intake.publish(posted)
        return fired, receipts

    Records.fire = apart


@planted("power", "the keys of idempotency are stored a commit after the message")
def keys_remembered_a_commit_later() -> None:
    _commit_before("insert or replace into idempotency")


@planted("power", "the numbers that were reserved are not stored")
def reservation_not_stored() -> None:
    from chappe.engines.file.turn import Turn

    store = Turn._set_meta
    Turn._set_meta = lambda self, name, value: None if name == "next_id" else store(self, name, value)


@planted("power", "the last request of a client is remembered a commit after it was stored")
def serial_remembered_a_commit_later() -> None:
    from chappe.engines.file.turn import Turn

    remember = Turn.remember_serial

    def later(self: Any, *arguments: Any) -> None:
        self.commit()
        remember(self, *arguments)

    Turn.remember_serial = later


def _commit_before(statement: str) -> None:
    """End the transaction and begin another before each statement that begins so."""
    from chappe.engines.file import ledger

    open_database = ledger.open_database

    class Apart:
        def __init__(self, db: Any) -> None:
            self._db = db

        def __getattr__(self, name: str) -> Any:
            return getattr(self._db, name)

        def execute(self, sql: str, *arguments: Any) -> Any:
            self._before(sql)
            return self._db.execute(sql, *arguments)

        def executemany(self, sql: str, *arguments: Any) -> Any:
            self._before(sql)
            return self._db.executemany(sql, *arguments)

        def _before(self, sql: str) -> None:
            if sql.startswith(statement):
                self._db.execute("commit")
                self._db.execute("begin immediate")

    ledger.open_database = lambda path: Apart(open_database(path))


# --- for the sick files


@planted("sick", "the seal of a stored envelope says nothing about it")
def seals_without_meaning() -> None:
    from chappe.engines.file import seal

    seal.crc32 = lambda data: 0


@planted("sick", "a log that has lost commits is opened without a word")
def damaged_log_opened() -> None:
    from chappe.engines.file import preflight

    preflight.refuse_damaged_log = lambda path: None


@planted("sick", "recover always says that all is saved")
def recover_says_all_is_well() -> None:
    from chappe.engines.file.recovery import Report

    Report.whole = property(lambda self: True)


@planted("sick", "recover takes rows from pages that are not in use")
def recover_takes_what_had_ended() -> None:
    from chappe.engines.file.pages import Pages
    from chappe.engines.file.recovery import _Salvage

    Pages._find_free = lambda self: set(range(-self.count, 0))  # as many as it likes, and none of them
    reads = _Salvage._read_with_sqlite
    _Salvage._read_with_sqlite = lambda self: reads(self) or True


# --- for the failing disks


@planted("disks", "an error of the disk in a commit is not heard")
def errors_of_the_disk_not_heard() -> None:
    import apsw

    from chappe.engines.file.turn import Turn

    commit = Turn.commit

    def deaf(self: Any) -> None:
        try:
            commit(self)
        except apsw.IOError:
            self._writing = False

    Turn.commit = deaf
