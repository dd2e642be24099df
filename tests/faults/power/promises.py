"""What must be in the file after so many requests: a model that knows the contracts' sentences, and nothing of SQL or transactions.

It is told each request with its answer, so it decides nothing by itself: it only says what an answer means for what is stored.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple
from zlib import crc32

import msgspec

from chappe.bounds import IDEMPOTENCY_KEPT, RESULTS_KEPT
from chappe.engines.contract.broker import Dead, Retry
from chappe.engines.file.records import SERIALS_KEPT
from chappe.engines.file.verbs import AckRequest
from chappe.engines.file.wire import Posted
from chappe.messages.envelope import Envelope, Options
from chappe.messages.topology import Topology, passes

from .tape import Answered, Asked

DEATHS: Final = 3
Fact = tuple[str, *tuple[Any, ...]]
_decode: Final = msgspec.msgpack.Decoder(Envelope).decode


class Wrong(Exception):  # noqa: N818
    """What is found is not what was promised."""


class Message(NamedTuple):
    """One message in one queue. `more` is the due time of a delayed one, the number, reason and history of a dead one."""

    state: str
    rank: int
    attempt: int
    key: str | None
    note: str | None
    envelope: int  # its checksum
    more: Any = None


class Promises:
    """Facts by their names; the first word of a name says what kind it is."""

    def __init__(self) -> None:
        self.facts: dict[Fact, Any] = {}
        self._letters = 0
        self._seq = 0
        self._envelopes: dict[int, bytes] = {}

    def copy(self) -> Promises:
        """Return a copy that goes its own way."""
        twin = Promises()
        twin.facts = dict(self.facts)
        twin._letters, twin._seq, twin._envelopes = self._letters, self._seq, self._envelopes
        return twin

    def take(self, asked: Asked, answered: Answered | None) -> None:
        """Go on by one request. Raises `Wrong` if it is about a message that was never accepted."""
        if answered is not None and answered.refused:
            return
        value = answered.value if answered is not None else None
        try:
            getattr(self, f"_{asked.verb}")(asked, value, *asked.arguments)
        except KeyError as error:
            raise Wrong(f"{asked.verb} is about something that was never accepted: {error}") from None

    # --- what clients ask

    def _declare(self, asked: Asked, value: Any, topology: Topology) -> None:
        for exchange in topology.exchanges:
            self.facts["exchange", exchange.name] = (exchange.kind, exchange.archive)
        for queue in topology.queues:
            self.facts["queue", queue.name] = tuple((b.exchange, b.key) for b in queue.bindings)

    def _publish(self, asked: Asked, receipts: Sequence[Any], posted: Sequence[Posted]) -> None:
        for p, receipt in zip(posted, receipts, strict=True):
            outcome = receipt[1] if len(receipt) > 1 else "stored"
            if outcome == "stored":
                self._store(p, asked.now)
            elif outcome == "merged":
                self._merge(p, receipt[0], asked.now)
        if asked.client:
            self.facts["client", asked.client] = (asked.serial, asked.now)

    def _settle(
        self,
        asked: Asked,
        refused: Sequence[Any],
        settlements: Sequence[AckRequest | Retry | Dead],
        held: dict[int, tuple[str, str]],
    ) -> None:
        tags = {refusal[0] for refusal in refused}
        for settlement in settlements:
            if settlement.delivery in tags:
                continue
            queue, identity = held[settlement.delivery]
            if isinstance(settlement, AckRequest):
                for p in settlement.then:
                    self._store(p, asked.now)
                del self.facts["message", queue, identity]
                self._end(queue, identity, "done", asked.now)
                if settlement.marked:
                    self._forget("mark", identity)
            elif isinstance(settlement, Retry):
                self._retry(queue, identity, settlement, asked.now)
            else:
                self._bury(queue, identity, settlement.reason, asked.now)

    def _mark(
        self, asked: Asked, conflicts: Sequence[Any], identity: str, handler: str, then: Sequence[Posted], result: bytes | None
    ) -> None:
        if not conflicts and ("mark", identity, handler) not in self.facts:
            for p in then:
                self._store(p, asked.now)
            self.facts["mark", identity, handler] = result

    def _fire(self, asked: Asked, value: tuple[bool, Any], schedule: str, slot: float, posted: Sequence[Posted]) -> None:
        if value[0]:
            for p in posted:
                self._store(p, asked.now)
            self.facts["schedule", schedule] = slot

    def _purge(self, asked: Asked, value: Any, queue: str, delete: bool, place: Any) -> None:
        """Take away what waits; there is less than the engine removes at once."""
        for name in [name for name in self.facts if name[:2] == ("message", queue)]:
            if self.facts[name].state in ("ready", "delayed"):
                del self.facts[name]
                self._end(queue, name[2], "dead", asked.now)

    def _retry_letters(self, asked: Asked, count: int, numbers: Iterable[int]) -> None:
        for name in self._letters_of(numbers):
            self.facts[name] = self.facts[name]._replace(state="ready", attempt=0, more=None)
            self.facts.pop(("failures", *name[1:]), None)
            for tracked in self._tracked(name[2]):
                self.facts[tracked] = ("ready", *self.facts[tracked][1:])

    def _edit_letter(self, asked: Asked, value: Any, number: int, body: bytes) -> None:
        for name in self._letters_of([number]):
            envelope = msgspec.structs.replace(_decode(self._envelopes[self.facts[name].envelope]), body=body)
            self.facts[name] = self.facts[name]._replace(envelope=self._sum(msgspec.msgpack.encode(envelope)))

    def _discard_letters(self, asked: Asked, count: int, numbers: Iterable[int]) -> None:
        for name in self._letters_of(numbers):
            del self.facts[name]
            self.facts.pop(("failures", *name[1:]), None)
            self._forget("mark", name[2])

    # --- what the engine does by itself

    def _promote(self, asked: Asked, value: Any) -> None:
        for name, message in list(self.facts.items()):
            if name[0] == "message" and message.state == "delayed" and message.more <= asked.now:
                self.facts[name] = message._replace(state="ready", more=None)

    def _give_back(self, asked: Asked, value: Any, held: Iterable[tuple[str, str, bool]]) -> None:
        for queue, identity, started in held:
            if started:
                deaths = self.facts["deaths", queue, identity] = self.facts.get(("deaths", queue, identity), 0) + 1
                self.facts["failures", queue, identity] = self.facts.get(("failures", queue, identity), 0) + 1
                if deaths >= DEATHS:
                    self._bury(queue, identity, "worker_lost", asked.now)

    def _prune(self, asked: Asked, value: Any) -> None:
        now = asked.now
        for name, fact in list(self.facts.items()):
            old = {
                "tracked": lambda f: f[0] in ("done", "dead") and f[2] < now - RESULTS_KEPT,
                "idempotency": lambda f: f[1] < now,
                "unique": lambda f: f[1] is not None and f[1] < now,
                "client": lambda f: f[1] < now - SERIALS_KEPT,
            }.get(name[0])
            if old is not None and old(fact):
                del self.facts[name]
        kept = {name[1]: fact[1] for name, fact in self.facts.items() if name[0] == "exchange" and fact[1]}
        for exchange, seconds in kept.items():
            archive = sorted((name, fact) for name, fact in self.facts.items() if name[0] == "archive")
            first = next((name[1] for name, fact in archive if fact[0] != exchange or fact[3] >= now - seconds), 0)
            for name, _ in archive:
                if name[1] < first:
                    del self.facts[name]

    # --- what these have in common

    def _store(self, p: Posted, now: float) -> None:
        options = p.options or Options()
        envelope = self._sum(bytes(p.envelope))
        state, due = ("delayed", now + p.delay) if p.delay > 0 else ("ready", None)
        for queue in self._takers(p):
            self.facts["message", queue, p.message_id] = Message(state, -p.priority, 0, options.key, None, envelope, due)
        self._remember(p.message_id, options, now)
        if options.tracked:
            self.facts.setdefault(("tracked", p.message_id), (state, None, now))
        if p.exchange and self.facts["exchange", p.exchange][1]:
            self._seq += 1
            self.facts["archive", self._seq] = (p.exchange, p.routing_key, p.message_id, now, envelope)

    def _merge(self, p: Posted, pending: str, now: float) -> None:
        options = p.options or Options()
        (queue,) = self._takers(p)
        name = ("message", queue, pending)
        self.facts[name] = self.facts[name]._replace(envelope=self._sum(bytes(p.envelope)))
        for merged in options.merged_ids:
            if options.tracked and merged != pending:
                self.facts.setdefault(("tracked", merged), ("ready", pending, now))
            self._remember(merged, options, now)

    def _remember(self, identity: str, options: Options, now: float) -> None:
        if options.idempotency_key is not None:
            self.facts["idempotency", options.idempotency_key] = (identity, now + IDEMPOTENCY_KEPT)
        if options.unique is not None:
            self.facts["unique", options.unique] = (identity, None if options.unique_for is None else now + options.unique_for)

    def _retry(self, queue: str, identity: str, retry: Retry, now: float) -> None:
        name = ("message", queue, identity)
        message: Message = self.facts[name]
        if retry.error is not None:
            self.facts["failures", queue, identity] = self.facts.get(("failures", queue, identity), 0) + 1
        if retry.counted or retry.after > 0 or retry.note is not None or retry.error is not None:
            state, due = ("delayed", now + retry.after) if retry.after > 0 else ("ready", None)
            self.facts[name] = message._replace(state=state, attempt=message.attempt + retry.counted, note=retry.note, more=due)

    def _bury(self, queue: str, identity: str, reason: str, now: float) -> None:
        name = ("message", queue, identity)
        message: Message = self.facts[name]
        self._letters += 1
        history = self.facts.get(("failures", queue, identity), 0)
        more = (self._letters, reason, history)
        self.facts[name] = message._replace(state="dead", attempt=message.attempt + 1, note=None, more=more)
        self._end(queue, identity, "dead", now)

    def _end(self, queue: str, identity: str, state: str, now: float) -> None:
        """Forget what was kept for a message that ended, and remember how it did."""
        self.facts.pop(("failures", queue, identity), None)
        self.facts.pop(("deaths", queue, identity), None)
        for name, fact in list(self.facts.items()):
            if name[0] == "unique" and fact == (identity, None):
                del self.facts[name]
        for tracked in self._tracked(identity):
            self.facts[tracked] = (state, self.facts[tracked][1], now)

    def _tracked(self, identity: str) -> list[Fact]:
        return [
            name for name, fact in self.facts.items() if name[0] == "tracked" and identity in (name[1], fact[1])
        ]  # fmt: skip

    def _letters_of(self, numbers: Iterable[int]) -> list[Fact]:
        by_number = {fact.more[0]: name for name, fact in self.facts.items() if name[0] == "message" and fact.state == "dead"}
        return [by_number[number] for number in numbers if number in by_number]

    def _forget(self, kind: str, identity: str) -> None:
        for name in [name for name in self.facts if name[:2] == (kind, identity)]:
            del self.facts[name]

    def _takers(self, p: Posted) -> list[str]:
        if not p.exchange:
            return [p.routing_key]
        kind = self.facts["exchange", p.exchange][0]
        return [
            name[1]
            for name, bindings in self.facts.items()
            if name[0] == "queue" and any(exchange == p.exchange and passes(kind, key, p.routing_key) for exchange, key in bindings)
        ]

    def _sum(self, envelope: bytes) -> int:
        checksum = crc32(envelope)
        self._envelopes[checksum] = envelope
        return checksum
