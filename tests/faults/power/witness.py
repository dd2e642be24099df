"""Writes onto the tape what an engine is asked and what it answers, at the moment when its bytes leave it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from chappe.engines.contract.broker import Death
from chappe.engines.file import ledger, log, server, turn
from chappe.engines.file.client import Client
from chappe.engines.file.connection import Connection
from chappe.engines.file.ledger import Ledger
from chappe.engines.file.queues import Session
from chappe.engines.file.server import Engine
from chappe.engines.file.verbs import DECODERS, Verbs
from chappe.engines.file.wire import Frames, Request, decode_answer, decode_request

from .tape import Lent, Tape

# What must be remembered; all else only looks.
_WRITES: Final = frozenset(
    {"declare", "publish", "settle", "purge", "mark", "fire", "retry_letters", "edit_letter", "discard_letters"},
)
_deliveries: Final = msgspec.msgpack.Decoder(list[tuple[int, str, int, tuple[Any, ...], str | None]]).decode
_plain: Final = msgspec.msgpack.Decoder().decode
_names: Final = itertools.count(1)

_PAGES: Final = 60  # in the log before a checkpoint; few, so that a short workload passes many
_IDS: Final = 40  # reserved at once


class WitnessedEngine(Engine):
    """The real engine, with somebody listening at its doors."""

    def __init__(self, tape: Tape, path: Path, now: Callable[[], float]) -> None:
        super().__init__(path, now=now, grace=0.0)
        self._tape = tape
        self._called: dict[Connection, str] = {}
        self._receives: dict[str, set[int]] = {}
        self._listen()

    def attach(self, send: Callable[[bytes], None], abort: Callable[[], None] = lambda: None) -> Connection:
        frames, name = Frames(), f"connection {next(_names)}"
        receives = self._receives[name] = set()

        def leave(data: bytes) -> None:
            for body in frames.feed(data):
                answer = decode_answer(body)
                if answer.serial not in receives:
                    self._tape.answer((name, answer.serial), _plain(answer.value), refused=answer.failure is not None)
                    continue
                receives.discard(answer.serial)
                lent = _deliveries(answer.value) if answer.failure is None else []
                if lent:
                    self._tape.events.append(Lent([(tag, queue, envelope[0]) for tag, queue, _, envelope, _ in lent]))
            send(data)

        connection = super().attach(leave, abort)
        self._called[connection] = name
        return connection

    def _perform(self, connection: Connection, request: Request) -> None:
        name, verb = self._called[connection], request.verb
        if verb == "receive":
            self._receives[name].add(request.serial)
        elif verb in _WRITES:
            arguments = DECODERS[verb](request.arguments)
            if verb == "settle":
                held = connection.session.claims
                arguments = (*arguments, {tag: (c.queue.name, c.message_id) for tag, c in held.items()})
            self._tape.ask(verb, arguments, self.ledger.turn.now(), (name, request.serial), connection.session.name)
        super()._perform(connection, request)

    def _listen(self) -> None:
        """Have the engine's own work on the tape: what falls due, what lost clients held, what was kept long enough."""
        tape, ledger, records = self._tape, self.ledger, self.verbs.records
        promote, give_back, prune = ledger.dispatch.promote, ledger.endings.give_back, records.prune

        def promoting() -> None:
            if ledger.turn.now() >= ledger.turn.next_due:
                tape.ask("promote", (), ledger.turn.now())
            promote()

        def giving_back(session: Session, death: Death | None, who: str) -> None:
            suspects = death.deliveries if death is not None else ()
            held = [(c.queue.name, c.message_id, tag in suspects) for tag, c in session.claims.items()]
            tape.ask("give_back", (held,), ledger.turn.now())
            give_back(session, death, who)

        def pruning() -> bool:
            tape.ask("prune", (), ledger.turn.now())
            return prune()

        ledger.dispatch.promote, ledger.endings.give_back, records.prune = promoting, giving_back, pruning


@contextmanager
def witnessed(tape: Tape, now: Callable[[], float]) -> Iterator[None]:
    """Have momentary owners on the tape too, with the same clock; make logs and reservations short, so that their ends come often."""
    perform = Client._perform

    def performing(self: Client, call: Any, ledger: Ledger, verbs: Verbs, session: Session) -> None:
        key = (self.name, call.serial)
        if call.verb in _WRITES:
            tape.ask(call.verb, DECODERS[call.verb](decode_request(call.body[4:]).arguments), ledger.turn.now(), key)
        perform(self, call, ledger, verbs, session)
        if call.future.done():
            refused = call.future.exception() is not None
            tape.answer(key, None if refused else msgspec.to_builtins(call.future.result()), refused=refused)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Client, "_perform", performing)
        patch.setattr(ledger, "steady_clock", lambda: now)
        patch.setattr(server, "FENCE", 1e9)
        patch.setattr(log, "CHECKPOINT", _PAGES)
        patch.setattr(log, "_STEP", 128 * 1024)
        patch.setattr(log, "_MARGIN", 32 * 1024)
        patch.setattr(turn, "_IDS_AT_ONCE", _IDS)
        yield
