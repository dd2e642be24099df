"""The rows of the archive in PostgreSQL: what stores them, and what reads them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, LiteralString

from chappe.engines.archiving import runs

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


def columns(exchanges: Sequence[str | None], envelopes: list[bytes]) -> dict[str, Any]:
    """Return what to archive of envelopes: those with the name of the exchange that keeps them."""
    found = runs(zip(exchanges, map(len, envelopes), strict=True))
    lasts = list(itertools.accumulate(end - begin for begin, end in found))
    return {
        "exchanges": [exchanges[begin] for begin, _ in found], "begins": [begin + 1 for begin, _ in found],
        "ends": [end for _, end in found], "lasts": lasts, "archived": lasts[-1], "envelopes": envelopes,
    }  # fmt: skip


def reading(after: int, most: int) -> tuple[LiteralString, Any]:
    """Return what reads the rows of the events behind `after`: of at least so many, or of all that there are."""
    return _READ, {"after": after, "most": most}


def events_of(rows: Iterable[Any], after: int) -> Iterator[tuple[int, float, str, str, bytes]]:
    """Return the `seq`, time, exchange, routing key and envelope of each event of rows that is behind `after`."""
    for first, at, exchange, keys, envelopes in rows:
        for seq, (key, envelope) in enumerate(zip(keys, envelopes, strict=True), first):
            if seq > after:
                yield seq, at, exchange, key, envelope
