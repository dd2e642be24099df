"""Pending messages of one key become one: the declared `merge`, applied by whoever sends."""

from __future__ import annotations

import collections
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import msgspec

from chappe.bus.bus import Bus
from chappe.errors import Rejected
from chappe.failures import summarize
from chappe.messages.codec import decoder, encode_json
from chappe.messages.envelope import Envelope, Publication, Receipt, changed
from chappe.messages.message import Message, writer_of

_REMEMBERED: Final = 5_000
_LARGEST_REMEMBERED: Final = 8 * 1024  # bytes of a body: 40 MB for all of them at most
_FIELDS: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_Place = tuple[str, str, str]
Publish = Callable[[Sequence[Publication]], Awaitable[list[Receipt]]]


class Merger:
    """Merges publications among themselves and with what is pending."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.registry = bus.registry
        self._pending: collections.OrderedDict[_Place, Receipt] = collections.OrderedDict()

    async def publish(self, publications: Sequence[Publication], publish: Publish) -> list[Receipt]:
        """Publish, merging with what is pending for as long as somebody else changes it meanwhile."""
        folded, positions = self._fold(publications)
        final: dict[int, Receipt] = {}
        waiting = [(index, self._with_remembered(publication)) for index, publication in enumerate(folded)]
        while waiting:
            receipts = await publish([p for _, p in waiting])
            for (index, tried), receipt in zip(waiting, receipts, strict=True):
                if receipt.outcome != "pending":
                    final[index] = receipt
                    self._remember(tried, receipt)
            try:
                waiting = [
                    (index, self._merge(folded[index], receipt))
                    for (index, _), receipt in zip(waiting, receipts, strict=True)
                    if receipt.outcome == "pending"
                ]
            except Rejected as error:
                if not final:
                    raise
                raise Rejected(f"{error} (others of this call are stored: {len(final)})") from error
        return [
            msgspec.structs.replace(final[position], outcome="merged")
            if publications[n].envelope.id != folded[position].envelope.id
            else final[position]
            for n, position in enumerate(positions)
        ]

    def _with_remembered(self, publication: Publication) -> Publication:
        """Merge with what was pending when we sent the last one of its key: it saves asking, and a wrong guess is answered."""
        place = _place(publication)
        remembered = None if place is None else self._pending.pop(place, None)
        try:
            return publication if remembered is None else self._merge(publication, remembered)
        except Rejected:  # the broker says what is pending now
            return publication

    def _remember(self, publication: Publication, receipt: Receipt) -> None:
        """Remember what is pending, if it stays so for long enough that a second message met the first."""
        place = _place(publication)
        if place is None or receipt.outcome != "merged" or receipt.version is None or len(publication.envelope.body) > _LARGEST_REMEMBERED:
            return
        self._pending[place] = Receipt(receipt.id, "pending", receipt.version, publication.envelope)
        if len(self._pending) > _REMEMBERED:
            self._pending.popitem(last=False)

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
        places: dict[_Place, int] = {}
        for publication in publications:
            place = _place(publication)
            if place is None:
                positions.append(len(folded))
                folded.append(publication)
                continue
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
        envelope = self._into(receipt.pending, publication.envelope)
        options = changed(publication.options, replaces=receipt.version)
        return Publication(envelope, publication.routing_key, publication.exchange, publication.priority, publication.delay, options)

    def _combine(self, older: Publication, newer: Publication) -> Publication:
        ids = (*(older.options.merged_ids if older.options else ()), *(newer.options.merged_ids if newer.options else ()))
        tracked = bool((older.options and older.options.tracked) or (newer.options and newer.options.tracked))
        return Publication(
            self._into(older.envelope, newer.envelope),
            older.routing_key,
            older.exchange,
            max(older.priority, newer.priority),
            min(older.delay, newer.delay),
            changed(newer.options, merged_ids=ids, tracked=tracked),
        )

    def _into(self, older: Envelope, newer: Envelope) -> Envelope:
        """Return the older envelope with the body that its message's `merge` makes of both."""
        kind = self.registry.message(older.type)
        decode = decoder(kind)
        try:
            pending, unknown = _opened(kind, decode, older.body)
            merged: Message = pending.merge(decode(newer.body))
            body = writer_of(kind)(merged)
            decode(body)  # merge may have used replace of another library: what cannot be decoded must not be stored
            if unknown:
                body = encode_json({**_FIELDS.decode(body), **unknown})
        except BaseException as error:  # merge is the user's code, and the pending body may be of another version of the class
            raise Rejected(
                f"{older.type} {older.id} is pending and cannot be merged with: {summarize(error)}; purge or handle it first"
            ) from error
        return msgspec.structs.replace(older, body=body)


def _opened(kind: Any, decode: Callable[[bytes], Any], body: bytes) -> tuple[Any, dict[str, msgspec.Raw]]:
    """Return a pending message, and those of its fields that this release does not know.

    They stay in the merged message as they are: whoever knows them has sent them for a reason, and handles the message.
    """
    config = kind.__struct_config__
    if config.forbid_unknown_fields:
        with contextlib.suppress(msgspec.ValidationError):
            return decode(body), {}
    fields = _FIELDS.decode(body)
    known = {*kind.__struct_encode_fields__, config.tag_field}
    unknown = {name: fields.pop(name) for name in list(fields) if name not in known}
    return decode(encode_json(fields)), unknown


def _place(publication: Publication) -> _Place | None:
    """Return where a publication would be pending; none for one that does not merge, or that must be known by its own key."""
    options = publication.options
    if options is None or not options.merges or options.key is None or options.idempotency_key or options.unique:
        return None
    return (publication.exchange, publication.routing_key, options.key)
