"""The verbs that clients say to the engine, each with the types of its arguments."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Final

import apsw
import msgspec
from msgspec import Raw

from chappe.bounds import Number, Seconds
from chappe.engines.contract.broker import Dead, Retry
from chappe.engines.contract.fleet import ClientStatus, EngineStatus, Overview, QueueStatus
from chappe.engines.contract.store import Store
from chappe.engines.file.budgets import Budgets
from chappe.engines.file.endings import Endings
from chappe.engines.file.intake import Intake
from chappe.engines.file.ledger import Ledger
from chappe.engines.file.letters import Letters
from chappe.engines.file.looking import Looking
from chappe.engines.file.queues import Claim, QueueState, Session, listed
from chappe.engines.file.records import Records
from chappe.engines.file.transfer import Transfer
from chappe.engines.file.wire import Posted, encode
from chappe.errors import BrokerError, NotFound, Rejected
from chappe.messages.topology import Queue, Topology

_LARGEST_TOLD: Final = 1024 * 1024  # bytes: a supervisor tells of all its processes


class AckRequest(msgspec.Struct, array_like=True, gc=False, tag="ack"):
    """`Ack` with its publications still closed."""

    delivery: Number
    then: list[Posted] = []
    result: bytes | None = None
    marked: bool = False
    error: str | None = None
    took: Seconds | None = None


class Verbs:
    """What the engine does for one request: the verbs of this class and its parts; their annotations are checked on the wire."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._turn = turn = ledger.turn
        self.endings = ledger.endings
        self.intake = Intake(turn)
        self.letters = Letters(turn)
        self.transfer = Transfer(turn, ledger.endings)
        self.records = Records(turn, self.intake)
        self.budgets = ledger.dispatch.budgets
        self.looking = Looking(turn, self.budgets)
        # What an engine knows beside the file: its process, and the sessions of its clients.
        self.about: Callable[[EngineStatus], EngineStatus] = lambda status: status
        self.sessions: Callable[[], list[Session]] = list

    # Each verb takes the session if it is one of these, then what the wire brought. It raises before it writes, or not at all.

    def declare(self, session: Session, topology: Topology) -> None:
        if not self._turn.routes.knows(topology):
            self._turn.require_space()
            self._turn.write()
        self._turn.routes.declare(topology)

    def subscribe(self, session: Session, queue: Queue) -> None:
        """Make a queue that goes with this client."""
        if not session.name:
            raise BrokerError("bad request: a client that makes temporary queues must have said its name")
        topology = Topology(queues=(queue,))
        if not self._turn.routes.knows(topology):
            self._turn.write()  # also on a full disk, where what is ready goes on: a worker may need it to begin
        self._turn.routes.declare(topology, owner=session.name)

    def publish(self, session: Session, posted: list[Posted]) -> list[Any]:
        self._turn.require_space()
        return self.intake.publish(posted)

    def settle(self, session: Session, settlements: list[AckRequest | Retry | Dead]) -> list[Any]:
        endings = self.endings
        refused: list[Any] = []
        done: list[tuple[Claim, AckRequest]] = []
        charged: list[tuple[Claim, float | None]] = []
        seen: set[int] = set()
        for settlement in settlements:
            tag = settlement.delivery
            claim = endings.claim_of(session, tag) if tag not in seen else None
            if claim is None:
                refused.append((tag, "stale", "the delivery was lost to somebody else, or settled already"))
                continue
            if isinstance(settlement, AckRequest):
                if settlement.then:
                    refusal = self._publish_with(settlement)
                    if refusal is not None:
                        refused.append(refusal)
                        continue
                done.append((claim, settlement))
            elif isinstance(settlement, Retry):
                one = settlement
                endings.retry(claim, one.after, counted=one.counted, error=one.error, note=one.note, budget=one.budget)
            else:
                endings.dead_letter(claim, settlement.reason, settlement.error)
            if claim.tenant is not None and _has_run(settlement):
                charged.append((claim, settlement.took))
            seen.add(tag)
        if charged:
            endings.charge(charged)
        if done:
            endings.ack([(claim, one.result, one.marked, one.error) for claim, one in done])
        return refused

    def _publish_with(self, settlement: AckRequest) -> tuple[Any, ...] | None:
        try:
            conflicts = self.intake.conflicts(settlement.then)
            if conflicts:
                return (settlement.delivery, "pending", "merge with the pending message first", conflicts)
            self.intake.publish(settlement.then)
        except Rejected as error:
            return (settlement.delivery, "unroutable", str(error))
        return None

    def depth(self, session: Session, queue: str) -> tuple[int, int, int, int]:
        found = self._turn.routes.queue(queue)
        return (found.rows - found.running, found.running, found.delayed, found.dead)

    def cancel_message(self, session: Session, message_id: str) -> str:
        """Remove what waits of a message; the engine tells the clients that hold it."""
        state = self.endings.withdraw(message_id)
        if any(claim.message_id == message_id for claim in self._turn.claims.values()):
            return "running"
        if state is None:
            raise NotFound(f"message {message_id} is neither waiting nor running: it has ended, or never was")
        return state

    def ping(self, session: Session) -> None:
        """Answer, to show that both sides live."""

    def tell(self, session: Session, info: dict[str, Any]) -> None:
        """Take what a client says of itself now."""
        if len(encode(info)) > _LARGEST_TOLD:
            raise BrokerError(f"bad request: a client may tell {_LARGEST_TOLD} bytes of itself")
        session.info = info

    def engine(self, session: Session) -> EngineStatus:
        """Tell of the file without a look at its queues."""
        return self.about(EngineStatus(str(self._turn.path), self._turn.full, sqlite=apsw.sqlite_lib_version()))

    def overview(self, session: Session) -> Overview:
        """Tell what an operator asks first."""
        routes, named = self._turn.routes, [session for session in self.sessions() if session.name]
        served = [(s.name, listed(s.info.get("queues"))) for s in named]
        queues = [self._shown(queue, served) for queue in sorted(routes.queues.values(), key=lambda queue: queue.name)]
        clients = [ClientStatus(s.name, s.role, len(s.claims), {name: v for name, v in s.info.items() if name != "table"}) for s in named]
        return Overview(self.engine(session), queues, list(routes.exchanges.values()), clients, self._turn.passed)

    def _shown(self, queue: QueueState, served: list[tuple[str, list[object]]]) -> QueueStatus:
        since = self._ledger.dispatch.oldest(queue)
        oldest = None if since is None else max(0.0, round(self._turn.now() - since, 3))
        return QueueStatus(
            queue.name, queue.bindings, queue.origin, queue.rows - queue.running, queue.running, queue.delayed, queue.dead,
            sum(name == queue.owner or queue.name in queues for name, queues in served),
            temporary=bool(queue.owner), paused=queue.paused, oldest=oldest,
            published=queue.published, done=queue.done, retried=queue.retried, died=queue.died,
        )  # fmt: skip

    def perform(self, session: Session, verb: str, arguments: Raw) -> Any:
        """Do what a client asks and return the answer; raises its refusal, and one of `UNREADABLE` for what is no such request."""
        if verb not in DECODERS:
            raise BrokerError(f'bad request: no verb is called "{verb}"')
        decoded, part = DECODERS[verb](arguments), _PART_OF[verb]
        said = getattr(getattr(self, part) if part else self, verb)
        return said(session, *decoded) if verb in _OF_SESSIONS else said(*decoded)


def _has_run(settlement: AckRequest | Retry | Dead) -> bool:
    """Tell whether a message was not just given back."""
    return settlement.took is not None or not isinstance(settlement, Retry) or settlement.counted


def _takes_session(verb: Any) -> bool:
    return callable(verb) and "session" in inspect.signature(verb).parameters


def _decoder(verb: Any) -> Callable[[Raw], tuple[Any, ...]]:
    """Return the decoder of a verb's arguments, without the session; extra or missing ones are refused."""
    hints = inspect.get_annotations(verb, eval_str=True)
    types = [hints[p] for p in inspect.signature(verb).parameters if p not in ("self", "session")]
    return msgspec.msgpack.Decoder(tuple[tuple(types)] if types else tuple[()]).decode


_PARTS: Final = {
    "records": Records, "budgets": Budgets, "letters": Letters, "looking": Looking, "transfer": Transfer, "endings": Endings,
}  # fmt: skip
_DECLARED: Final = frozenset({*dir(Store), "purge"})
_VERBS: Final = {
    **{name: ("", verb) for name, verb in vars(Verbs).items() if name != "perform" and not name.startswith("_") and _takes_session(verb)},
    **{name: (part, verb) for part, kind in _PARTS.items() for name, verb in vars(kind).items() if name in _DECLARED and name[0] != "_"},
}
_PART_OF: Final = {name: part for name, (part, _) in _VERBS.items()}
_OF_SESSIONS: Final = frozenset(name for name, (_, verb) in _VERBS.items() if _takes_session(verb))
DECODERS: Final = {name: _decoder(verb) for name, (_, verb) in _VERBS.items()}
HARMLESS: Final = frozenset({  # they only read, or may be said again: a process begins with some of them, and waits for its engine so long
    "ahead", "archived", "await_archived", "batch", "batches", "begin_schedules", "budgets", "cancel", "declare", "depth", "desired",
    "engine", "export_messages", "failing", "followers", "keep_position", "last_fired", "letter", "letters", "look", "marks", "overview",
    "ping", "result", "state", "subscribe", "tell",
})  # fmt: skip
