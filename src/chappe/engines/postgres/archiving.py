"""The rows of the archive: events that are published together and follow one another in one exchange are one row.

A row for each would cost a publisher more than half of what it publishes by hundreds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final, LiteralString

_EVENTS: Final = 128  # of one row at most: who wants one of them reads them all
_ROOM: Final = 64 * 1024  # bytes of their envelopes
# The parts of a statement that has `known`, and in `keys` and `envelopes` what `columns` are about.
ARCHIVE: Final[LiteralString] = """
    head as (
        update archive_head set seq = seq + %(archived)s from known where ok returning seq - %(archived)s as before, now_seconds() as at
    ),
    archived as (
        insert into archive select before + last - ends + begins, before + last, at, exchange,
            (%(keys)b::text[])[begins:ends], (%(envelopes)b::bytea[])[begins:ends]
        from (select * from head limit 1) one,
            unnest(%(exchanges)s::text[], %(begins)s::integer[], %(ends)s::integer[], %(lasts)s::integer[])
            as t (exchange, begins, ends, last)
    )
"""
TOLD: Final[LiteralString] = "(select tell_archived() from head)"
# No more rows than have the events that are asked for: how many those of a row are is known without reading them.
_READ: Final[LiteralString] = """
    select first, at, exchange, routing_keys, envelopes from (
        select *, sum(size) over (order by seq) - size as before from (
            select *, seq - greatest(first - 1, %(after)s) as size from archive where seq > %(after)s order by seq limit %(most)s
        ) behind
    ) found where before < %(most)s order by seq
"""


def columns(exchanges: Iterable[str | None], envelopes: list[bytes]) -> dict[str, Any]:
    """Return what to archive of envelopes: those with the name of the exchange that keeps them."""
    runs: list[tuple[str, int, int, int]] = []
    archived = room = 0
    for place, (exchange, envelope) in enumerate(zip(exchanges, envelopes, strict=True), 1):
        if exchange is None:
            continue
        archived += 1
        room -= len(envelope)
        if runs and room >= 0 and runs[-1][0] == exchange and runs[-1][2] == place - 1 and place - runs[-1][1] < _EVENTS:
            runs[-1] = (exchange, runs[-1][1], place, archived)
        else:
            runs.append((exchange, place, place, archived))
            room = _ROOM - len(envelope)
    named = zip(("exchanges", "begins", "ends", "lasts"), zip(*runs, strict=True), strict=True)
    return {name: list(column) for name, column in named} | {"archived": archived, "envelopes": envelopes}


def reading(after: int, most: int) -> tuple[LiteralString, Any]:
    """Return what reads the rows of the events behind `after`: of at least so many, or of all that there are."""
    return _READ, {"after": after, "most": most}


def events_of(rows: Iterable[Any], after: int) -> Iterator[tuple[int, float, str, str, bytes]]:
    """Return the `seq`, time, exchange, routing key and envelope of each event of rows that is behind `after`."""
    for first, at, exchange, keys, envelopes in rows:
        for seq, (key, envelope) in enumerate(zip(keys, envelopes, strict=True), first):
            if seq > after:
                yield seq, at, exchange, key, envelope
