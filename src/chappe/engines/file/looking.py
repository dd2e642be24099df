"""Shows single messages of the file, a bounded part of them at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from msgspec import Raw

from chappe.bounds import Number
from chappe.engines.contract.inspection import MOST_AHEAD
from chappe.engines.dispatch import SUSPECT
from chappe.engines.file import running_tables
from chappe.engines.file.budgets import Budgets
from chappe.engines.file.queues import HISTORY, Claim, QueueState, Session
from chappe.engines.file.seal import unseal_or_stand_in
from chappe.engines.file.turn import Turn
from chappe.errors import NotFound

_LOOKED_AT: Final = 5000  # rows of one answer
_ROOM: Final = 4 * 1024 * 1024  # bytes of envelopes in one answer, or one envelope
_FIRST: Final = (-(2**62), -(2**62))
# For each state: its table, the two columns that order it, and what is shown of a row beside them.
_TABLES: Final = {
    "ready": ("ready", "rank", "id", "id, rank, message_id, attempt, flags, key, since, null, null, null, null, null, tenant, envelope"),
    "delayed": ("delayed", "due", "id", "id, rank, message_id, attempt, flags, key, due, budget, null, null, null, null, null, envelope"),
    "dead": (
        "dead", "number", "number",
        "number, rank, message_id, attempts, flags, key, null, null, reason, error, died_at, deaths, null, envelope",
    ),
}  # fmt: skip
_LOOK = """select {a}, {b}, {columns} from (select * from {table} where queue = ? and ({a}, {b}) > (?, ?) order by {a}, {b} limit ?)
    where {contains} limit ?"""
_LAST = "select {a}, {b} from {table} where queue = ? and ({a}, {b}) > (?, ?) order by {a}, {b} limit 1 offset ?"
_LENT = "select 0, id, {columns} from ready where {contains} and queue = ? and rank = ? and id = ?"
_AHEAD = {
    "ready": """select count(*) from (
        select 1 from ready r join ready mine on mine.queue = ?1 and mine.rank = ?2 and mine.id = ?3
        where r.queue = ?1 and (r.rank, r.id) < (?2, ?3) and r.tenant is mine.tenant limit ?4
    )""",
    "budget": """select count(*) from (
        select 1 from delayed d join delayed mine on mine.due = ?2 and mine.id = ?3
        where d.queue = ?1 and d.budget = mine.budget and (d.rank, d.id) < (mine.rank, mine.id) limit ?4
    )""",
}
_HOLDER_OF_KEY = """select message_id from ready where queue = ?1 and id = ?2 and key = ?3
    union all select message_id from delayed where queue = ?1 and id = ?2 and key = ?3 limit 1"""
_LAST_FAILURE = "select error from failure where message_id = ? order by at desc, attempt desc limit 1"


class Looking:
    """Looks at the messages of one file."""

    def __init__(self, turn: Turn, budgets: Budgets) -> None:
        self._turn = turn
        self._budgets = budgets

    def look(self, queue: str, state: str, containing: list[bytes], cursor: str, limit: Number) -> tuple[list[Any], str | None]:
        """See `Inspection.look`: return what is shown as maps, and the cursor."""
        found = self._turn.routes.queue(queue)
        limit = max(1, min(limit, 1000))
        if state != "running" and state not in _TABLES:
            raise NotFound(f'no state is called "{state[:50]}"; it is running, ready, delayed or dead')
        begin = _FIRST
        if cursor and (begin := _place_of(cursor)) is None:
            raise NotFound(f'"{cursor[:100]}" is no cursor of a list of messages; begin without one')
        looked = _LOOKED_AT if containing else min(_LOOKED_AT, limit + (found.running if state == "ready" else 0))
        parts = {"contains": " and ".join("instr(envelope, ?)" for _ in containing) or "true"}
        parts |= dict(zip(("table", "a", "b", "columns"), _TABLES["ready" if state == "running" else state], strict=True))
        if state == "running":
            rows = self._running(found, begin[1], parts, containing)
        else:
            rows = self._turn.db.execute(_LOOK.format(**parts), (found.id, *begin, looked, *containing, looked))
        shown: list[Any] = []
        begun: dict[Session, frozenset[int] | None] = {}
        room, last = _ROOM, begin
        for first, second, *row in rows:
            claim = self._turn.claims.get(second) if parts["table"] == "ready" else None
            if state != "ready" or claim is None:
                room -= len(row[-1])
                if shown and (len(shown) >= limit or room < 0):
                    return shown, json.dumps(last)
                if claim is not None and claim.session not in begun:
                    begun[claim.session] = self._begun(claim.session)
                known = None if claim is None else begun[claim.session]
                told = self._shown(found, state, json.dumps((first, second)), row, claim)
                shown.append(told | {"begun": known is None or second in known})
            last = (first, second)
        end = None if state == "running" else self._turn.db.execute(_LAST.format(**parts), (found.id, *begin, looked - 1)).fetchone()
        return shown, None if end is None else json.dumps(end)

    def _running(self, queue: QueueState, after: int, parts: dict[str, str], containing: list[bytes]) -> Iterator[Any]:
        """Return what is lent of a queue by number, as the rows of `_LOOK`."""
        for claim in sorted((c for c in self._turn.claims.values() if c.queue is queue and c.id > after), key=lambda c: c.id):
            row = self._turn.db.execute(_LENT.format(**parts), (*containing, queue.id, claim.rank, claim.id)).fetchone()
            if row is not None:
                yield row

    def _begun(self, session: Session) -> frozenset[int] | None:
        """Return what a worker has begun of what it was lent; nothing of a client that does not tell."""
        table = running_tables.table_named(self._turn.path, session.info.get("table"))
        account = None if table is None else running_tables.read_table(table)
        return None if account is None else account.begun

    def _shown(self, queue: QueueState, state: str, place: str, row: Any, claim: Claim | None = None) -> dict[str, Any]:
        number, rank, message_id, attempt, flags, key, due, budget, reason, error, died_at, deaths, tenant, stored = row
        scope = f"{queue.id}/{message_id}"
        status: dict[str, Any] = {
            "queue": queue.name, "state": state, "place": place, "attempt": attempt if state == "dead" else attempt + 1,
            "priority": -rank, "key": key, "due": due, "alone": bool(flags & SUSPECT), "reason": reason, "error": error, "died_at": died_at,
            "number": number if state == "dead" else None, "envelope": Raw(unseal_or_stand_in(stored, message_id)),
            "tenant": tenant, "holder": None if claim is None else claim.session.name,
        }  # fmt: skip
        if deaths is None:
            died = self._turn.db.execute("select count from death where message_id = ?", (scope,)).fetchone()
            deaths = 0 if died is None else died[0]
        if budget is not None:
            status |= {"budget": budget, "due": self._budgets.opens(budget), "pace": self._budgets.pace(budget)}
        if flags & HISTORY and state != "dead":
            failed = self._turn.db.execute(_LAST_FAILURE, (scope,)).fetchone()
            status["error"] = None if failed is None else failed[0]
        return status | {"deaths": deaths, "held_by": self._held_by(queue, number, key) if state == "ready" else None}

    def _held_by(self, queue: QueueState, number: int, key: str | None) -> str | None:
        """Return the message that has the key of one that waits for it."""
        holder = None if key is None else queue.line.held.get(key)
        if holder is None or holder == number:
            return None
        if (claim := self._turn.claims.get(holder)) is not None:
            return claim.message_id
        row = self._turn.db.execute(_HOLDER_OF_KEY, (queue.id, holder, key)).fetchone()
        return None if row is None else str(row[0])

    def ahead(self, queue: str, place: str) -> int:
        """See `Inspection.ahead`."""
        found = self._turn.routes.queue(queue)
        if (at := _place_of(place)) is None:
            raise NotFound(f'"{place[:100]}" is no place of a message')
        is_ready = isinstance(at[0], int)
        (count,) = self._turn.db.execute(_AHEAD["ready" if is_ready else "budget"], (found.id, *at, MOST_AHEAD)).fetchone()
        if not is_ready:
            return int(count)
        tenant = self._turn.db.execute("select tenant from ready where queue = ? and rank = ? and id = ?", (found.id, *at)).fetchone()
        lent = (c for c in self._turn.claims.values() if c.queue is found and (c.rank, c.id) < at and (c.tenant,) == tenant)
        return max(0, int(count) - sum(1 for _ in lent))


def _place_of(text: str) -> tuple[float, int] | None:
    """Return the two columns by which a list is in order, if that is what a text says."""
    try:
        first, second = json.loads(text)
    except (ValueError, TypeError):
        return None
    fits = all(isinstance(one, int) and abs(one) < 2**63 for one in ((second,) if isinstance(first, float) else (first, second)))
    return (first, second) if fits else None
