"""What becomes of the messages that a worker died with: the guilty are found, because each runs alone from then on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, LiteralString

import msgspec

from chappe.bounds import DEATHS_ALLOWED
from chappe.engines.contract.broker import Death
from chappe.engines.contract.stray import MARK, STRAYS
from chappe.engines.postgres import lines
from chappe.engines.postgres.database import Cursor, Database
from chappe.engines.postgres.endings import BURY
from chappe.engines.postgres.storing import TELL
from chappe.failures import why_dead

# Only what is still that worker's is taken from it: the rest is in the queue again, or somebody else's already.
_TAKE_BACK: Final = """
    with back as (
        delete from running r using session s
        where r.place = any(%(places)s) and s.number = r.session and convert_from(s.info, 'UTF8')::jsonb ->> 'table' = %(worker)s
        returning r.*
    )
    insert into message (place, queue, rank, state, message_id, attempt, deaths, flags, key, note, tenant, envelope)
    select place, queue, rank, 1, message_id, attempt, deaths, flags | 8, key, note, tenant, envelope from back
"""
_COUNT: Final = """
    with waits as (
        update message set deaths = deaths + 1,
            flags = flags | 4 | case when %(sure)s or deaths > 0 then 16 else 0 end,
            state = case when state = 1 and (%(sure)s or deaths > 0) then 3 else state end
        where place = any(%(places)s) returning place, queue, message_id, attempt, deaths
    ),
    runs as (
        update running set deaths = deaths + 1, flags = flags | 4 | case when %(sure)s or deaths > 0 then 16 else 0 end
        where place = any(%(places)s) returning place, queue, message_id, attempt, deaths
    ),
    failed as (
        insert into failure select queue, message_id, now_seconds(), attempt + 1, %(error)s
        from (select * from waits union all select * from runs) hit
    )
    select place, queue, deaths from waits
"""
# It ran out of its time: an attempt has failed, and the next one runs alone.
_FAIL: Final = """
    with failed as (
        insert into failure select queue, message_id, now_seconds(), attempt + 1, %(error)s from message where place = any(%(places)s)
    )
    update message set attempt = attempt + 1, flags = flags | 4 | 16,
        state = case when %(after)s > 0 then 0 else 3 end, due = case when %(after)s > 0 then now_seconds() + %(after)s end
    where place = any(%(places)s) and state in (1, 3) returning queue
"""
_KEYS: Final = "select queue, key from message where place = any(%s) and key is not null"
_DEAD: Final[LiteralString] = (
    """
    with ended as (
        delete from message m where place = any(%(places)s)
        returning m.*, attempt + %(spent)s as spent, %(reason)s::text as reason, %(error)s::text as error
    ),
    """
    + BURY
)
# Deaths with messages of the broker beside this one, known by the upper part of their tags: they come when it lends them again.
_REMEMBER: Final = """
    insert into stray_death select mark, %s, 1, now_seconds() from unnest(%s::bigint[]) as t (mark)
    on conflict (mark) do update set death = excluded.death, deaths = stray_death.deaths + 1, at = excluded.at
"""
REMEMBERED: Final = "select mark from stray_death where mark = any(%s)"
_RECALL: Final = "delete from stray_death where mark = any(%s) returning mark, death, deaths"


class Blame:
    """Counts the deaths of workers for the messages that may have caused them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def count(self, death: Death) -> None:
        """Take back what the dead worker executed, and have it run alone, or end."""

        async def work(cursor: Cursor) -> None:
            places = [tag for tag in death.deliveries if tag < STRAYS]
            if marks := [tag >> MARK for tag in death.deliveries if tag >= STRAYS]:
                await cursor.execute(_REMEMBER, (msgspec.json.encode(msgspec.structs.replace(death, deliveries=())), marks))
            if places:
                await cursor.execute(_TAKE_BACK, {"places": places, "worker": death.worker})
                await self._count(cursor, death, places)

        await self._database.run(work)

    async def recall(self, cursor: Cursor, adopted: Mapping[int, int]) -> None:
        """Blame what was just adopted and waits, places by tags, for the deaths that are remembered."""
        await cursor.execute(_RECALL, ([tag >> MARK for tag in adopted],))
        for mark, death, count in await cursor.fetchall():
            places = [place for tag, place in adopted.items() if tag >> MARK == mark]
            for _ in range(count):
                await self._count(cursor, msgspec.json.decode(death, type=Death), places)

    async def _count(self, cursor: Cursor, death: Death, places: list[int]) -> None:
        if death.after is None:
            await cursor.execute(_COUNT, {"places": places, "sure": death.is_sure, "error": death.error})
            rows = await cursor.fetchall()
            dead = {int(place): int(deaths) for place, _, deaths in rows if deaths >= DEATHS_ALLOWED}
            for deaths in set(dead.values()):
                text = f"{deaths} workers died while they ran this; the last time {death.error}"
                await _end(cursor, [place for place, count in dead.items() if count == deaths], "worker_lost", text, 0)
            queues = {int(queue) for _, queue, _ in rows}
        elif death.is_last:
            queues = await _end(cursor, places, "attempts spent", death.error, 1)
        else:
            await cursor.execute(_FAIL, {"places": places, "error": death.error, "after": death.after})
            queues = {int(queue) for (queue,) in await cursor.fetchall()}
        await cursor.execute(TELL, (sorted(queues),))


async def _end(cursor: Cursor, places: list[int], reason: str, error: str, spent: int) -> set[int]:
    """Make messages that wait dead letters, and return the queues in which others of their keys may run now."""
    await cursor.execute(_KEYS, (places,))
    keys = [(int(queue), str(key)) for queue, key in await cursor.fetchall()]
    told = {
        "places": places, "spent": spent, "reason": reason, "error": error, "state": "dead", "results": [None] * len(places),
        "errors": [why_dead(reason, error)] * len(places),
    }  # fmt: skip
    await cursor.execute(_DEAD, told)
    return set(await lines.leave(cursor, keys))
