"""What an outbox stores of a message in the application's own transaction, and how a relay sends what it has read from there."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec

from chappe.app import App
from chappe.bus.draft import draft_of, listed, new_id
from chappe.errors import DefinitionError, Rejected, StorageFull
from chappe.messages.envelope import Publication

log = logging.getLogger("chappe.outbox")

AT_ONCE: Final = 500  # rows that a relay reads
AFTER_REFUSAL: Final = 60.0  # seconds after which what was refused is tried again
_LARGEST: Final = 1024 * 1024  # bytes of bodies that are published together
encode: Final = msgspec.msgpack.Encoder().encode
decode: Final = msgspec.msgpack.Decoder(Publication).decode


Row = tuple[Any, Publication]  # by its number


def prepared(
    app: App, message: Any, *, delay: float | None, priority: int | None, idempotency_key: str | None = None
) -> tuple[list[Publication], bool]:
    """Return what is to be stored of a message, or of several, and whether it were several.

    Raises `InvalidMessage`, and `DefinitionError` for an inline command.
    """
    messages, many = listed(message)
    found: list[Publication] = []
    for one in messages:
        if one.__spec__.inline:
            raise DefinitionError(f"{type(one).__name__} is inline, so it cannot wait for a commit; handle it with app.send(…)")
        key = new_id() if idempotency_key is None else idempotency_key  # by which the broker knows it again after an answer was lost
        found.append(app.bus.prepare(one, draft_of(one, delay=delay, priority=priority, idempotency_key=key)))
    return found, many


async def relay(app: App, rows: Sequence[Row], where: str) -> dict[Any, str | None]:
    """Publish rows together, or one by one where one is refused; return of each why it stays where it is, or nothing if it has left."""
    try:
        await app.publish_all([_still_delayed(publication) for _, publication in rows])
    except StorageFull:
        raise
    except Rejected as error:
        if len(rows) > 1:
            return {number: why for row in rows for number, why in (await relay(app, [row], where)).items()}
        ((number, publication),) = rows
        log.error("%s %s stays in %s: %s", publication.envelope.type, publication.envelope.id, where, error)
        return {number: str(error)}
    return dict.fromkeys(number for number, _ in rows)


def parts(rows: Sequence[Row]) -> Iterator[list[Row]]:
    """Divide rows into what is published at once: what merges goes alone, for merged with its neighbours it would not be known again."""
    part: list[Row] = []
    room = _LARGEST
    for row in rows:
        options, size = row[1].options, len(row[1].envelope.body)
        merges = options is not None and options.merges
        if part and (merges or size > room):
            yield part
            part, room = [], _LARGEST
        part.append(row)
        room = 0 if merges else room - size
    if part:
        yield part


def _still_delayed(publication: Publication) -> Publication:
    """Return a publication whose delay counts from when it was sent."""
    if not publication.delay:
        return publication
    left = publication.envelope.timestamp + publication.delay - time.time()
    return msgspec.structs.replace(publication, delay=max(0.0, left))
