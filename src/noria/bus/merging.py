"""Pending messages of one key become one: the declared `merge`, applied by whoever sends."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import msgspec

from noria.bus.bus import Bus
from noria.errors import Rejected
from noria.messages.codec import encode_json
from noria.messages.envelope import Publication, Receipt, changed
from noria.messages.message import Message

Publish = Callable[[Sequence[Publication]], Awaitable[list[Receipt]]]


class Merger:
    """Merges publications among themselves and with what is pending."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.registry = bus.registry

    async def publish(self, publications: Sequence[Publication], publish: Publish) -> list[Receipt]:
        """Publish, merging with what is pending for as long as somebody else changes it meanwhile."""
        folded, positions = self._fold(publications)
        final: dict[int, Receipt] = {}
        waiting = list(enumerate(folded))
        while waiting:
            receipts = await publish([p for _, p in waiting])
            again: list[tuple[int, Publication]] = []
            for (index, _), receipt in zip(waiting, receipts, strict=True):
                if receipt.outcome == "pending":
                    again.append((index, self._merge(folded[index], receipt)))
                else:
                    final[index] = receipt
            waiting = again
        return [
            msgspec.structs.replace(final[position], outcome="merged")
            if publications[n].envelope.id != folded[position].envelope.id
            else final[position]
            for n, position in enumerate(positions)
        ]

    def fold(self, publications: Sequence[Publication]) -> tuple[Publication, ...]:
        """Merge those of one key among themselves."""
        return tuple(self._fold(publications)[0])

    def merged(
        self, originals: Sequence[Publication], tried: Sequence[Publication], receipts: Sequence[Receipt]
    ) -> tuple[Publication, ...]:
        """Merge each original whose receipt shows a pending message with it; keep what was tried where nothing changed.

        It is always the original that is merged: a merge need not be idempotent.
        """
        return tuple(
            self._merge(original, receipt) if receipt.outcome == "pending" else before
            for original, before, receipt in zip(originals, tried, receipts, strict=True)
        )

    def _fold(self, publications: Sequence[Publication]) -> tuple[list[Publication], list[int]]:
        """Merge those of one key among themselves; give what is left, and where each went."""
        folded: list[Publication] = []
        positions: list[int] = []
        places: dict[tuple[str, str, str], int] = {}
        for publication in publications:
            options = publication.options
            if options is None or not options.merges or options.key is None or options.idempotency_key or options.unique:
                positions.append(len(folded))
                folded.append(publication)
                continue
            place = (publication.exchange, publication.routing_key, options.key)
            at = places.get(place)
            if at is None:
                at = places[place] = len(folded)
                folded.append(publication)
            else:
                folded[at] = self._combine(folded[at], publication)
            positions.append(at)
        return folded, positions

    def _merge(self, publication: Publication, receipt: Receipt) -> Publication:
        """Merge a publication into the pending message of its key; if that runs by now, it stays as it is."""
        if receipt.pending is None:
            return publication
        older = Publication(
            receipt.pending, publication.routing_key, publication.exchange, publication.priority, publication.delay, publication.options
        )
        merged = self._combine(older, publication)
        options = changed(
            merged.options, replaces=receipt.version, merged_ids=publication.options.merged_ids if publication.options else ()
        )
        return msgspec.structs.replace(merged, options=options)

    def _combine(self, older: Publication, newer: Publication) -> Publication:
        kind = self.registry.message(older.envelope.type)
        decode = self.bus.decoder_of(kind)
        try:
            merged: Message = decode(older.envelope.body).merge(decode(newer.envelope.body))
            body = encode_json(merged)
            decode(body)  # merge may have used replace of another library: what cannot be decoded must not be stored
        except (msgspec.MsgspecError, UnicodeDecodeError, TypeError) as error:
            raise Rejected(
                f"{older.envelope.type} {older.envelope.id} is pending and cannot be merged with: {error}; purge or handle it first"
            ) from error
        ids = (*(older.options.merged_ids if older.options else ()), *(newer.options.merged_ids if newer.options else ()))
        tracked = bool((older.options and older.options.tracked) or (newer.options and newer.options.tracked))
        return Publication(
            msgspec.structs.replace(older.envelope, body=body),
            older.routing_key,
            older.exchange,
            max(older.priority, newer.priority),
            min(older.delay, newer.delay),
            changed(newer.options, merged_ids=ids, tracked=tracked),
        )
