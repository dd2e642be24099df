"""The engine's loop: gathers what arrives in one turn, has the ledger commit it, then answers.

One process runs it for each file. It holds no user code, starts no threads, and polls nothing.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import apsw
from msgspec.structs import replace

from chappe import errors
from chappe.clocks import steady_clock
from chappe.engines.contract.fleet import EngineStatus
from chappe.engines.file.bodies import Leftovers
from chappe.engines.file.connection import BrokenProtocol, Connection
from chappe.engines.file.database import PASSING
from chappe.engines.file.deaths import Deaths
from chappe.engines.file.ledger import Ledger
from chappe.engines.file.owner import Ownership
from chappe.engines.file.queues import QueueState
from chappe.engines.file.reserve import Reserve
from chappe.engines.file.room import Room
from chappe.engines.file.verbs import DECODERS, Verbs
from chappe.engines.file.waits import Waits
from chappe.engines.file.wire import UNASKED, UNREADABLE, Request, frame
from chappe.errors import BrokerError, ChappeError
from chappe.words import counted

log = logging.getLogger("chappe.file")

GRACE: Final = 0.5  # seconds for clients to come back with what they hold, after an engine died
FENCE: Final = 10.0  # seconds of silence after which a client that holds messages is given up
_PRUNE_EVERY: Final = 60.0
_AFTER_FAILURE: Final = 0.1
_LOOK_FOR_SESSION: Final = 1.0
_LATE: Final = 0.1
_REFUSED_FOR: Final = 30.0  # seconds: no client waits so long for the answer to a publication
_REFUSED_KEPT: Final = 10_000
_OF_THE_LIVING: Final = frozenset({"hello", "receive"})  # what a closed connection must not have done
_SAID_AGAIN: Final = frozenset({"hello", "receive", "cancel"})  # what no client repeats by itself when it is refused


class Engine:
    """Owns the ledger and runs its turns inside an event loop."""

    def __init__(self, path: Path, *, now: Callable[[], float] | None = None, grace: float = GRACE) -> None:
        """Open the file. Raises `AlreadyOwned`, `UnsafeStorage` or `CorruptStorage`."""
        self._path = path
        self._ownership = Ownership(path)
        reserve = Reserve(path)
        try:
            reserve.lay()
            self.ledger = Ledger(path, now or steady_clock())
        except BaseException:
            self._ownership.close()
            raise
        self.verbs = Verbs(self.ledger)
        self.verbs.about, self.verbs.sessions = self._with_process, lambda: [connection.session for connection in self.connections]
        self.connections: set[Connection] = set()
        self.started_at = time.time()
        self.turns = 0
        self._inbox: list[tuple[Connection, Request]] = []
        self._at: tuple[Connection, Request] | None = None  # the request that is being performed
        self._lost: list[Connection] = []
        self._dropped: list[Connection] = []
        self._scheduled = False
        self._due: asyncio.TimerHandle | None = None
        self._timers: list[asyncio.TimerHandle] = []
        self._loop = asyncio.get_running_loop()
        self._touched: set[Connection] = set()
        self._pruning = False
        self.stopped: asyncio.Future[BaseException | None] = self._loop.create_future()
        self.room = Room(self.ledger.turn, reserve, self._give_up)
        self.waits = Waits(self.ledger, self.verbs.records, self._touched)
        self._left: set[QueueState] = set()  # temporary queues whose owners were not here at the last look
        self._removing: list[QueueState] = []  # those of owners that were missed before too, and do not come back
        self._deaths = Deaths(self.ledger)
        self._leftovers = Leftovers(path, self.ledger.turn.db)
        self.special: dict[str, Callable[[Connection, Request], None]] = {  # verbs that wait, or are about the connection itself
            "hello": self.waits.say_hello, "receive": self.waits.receive, "cancel": self.waits.cancel, "result": self.waits.await_result,
            "await_archived": self.waits.await_archived,
            "cancel_message": self.cancel_message,
        }  # fmt: skip
        self.ledger.dispatch.held_back = self.ledger.turn.was_held
        self._serve_after(grace if self.ledger.turn.was_held else 0.0)
        self._timers.append(self._loop.call_later(_PRUNE_EVERY, self._prune))
        self._fence_at = self._loop.time() + FENCE / 4
        self._timers.append(self._loop.call_later(FENCE / 4, self._fence))
        self._wake_at_due()

    # --- what connections bring

    def attach(self, send: Callable[[bytes], None], abort: Callable[[], None] = lambda: None) -> Connection:
        """Add a client; `send` carries answers to it, `abort` ends it."""
        connection = Connection(send, abort)
        self.connections.add(connection)
        return connection

    def submit(self, connection: Connection, request: Request) -> None:
        """Take a request into the turn that is being gathered."""
        if connection.closed or connection.dropped:
            return
        connection.session.last_seen = self._loop.time()
        self._inbox.append((connection, request))
        self.schedule()

    def detach(self, connection: Connection) -> None:
        """Drop a client; what it held is ready again after this turn."""
        if connection in self.connections:
            connection.closed = True
            self.connections.discard(connection)
            self.waits.end(connection)
            self._lost.append(connection)
            self.schedule()

    def schedule(self) -> None:
        """Have a turn run as soon as the loop has read everything that is there."""
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._turn)

    def close(self) -> None:
        """Stop the timers and close the file."""
        for timer in [*self._timers, *([self._due] if self._due else [])]:
            timer.cancel()
        for connection in self.connections:
            connection.closed = True
            self.waits.end(connection)
        self.connections.clear()
        self.ledger.close()
        self.room.close()
        self._ownership.close()
        if not self.stopped.done():
            self.stopped.set_result(None)

    # --- the turn

    def _turn(self) -> None:
        self._scheduled = False
        if self.stopped.done():
            return
        self.turns += 1
        inbox, self._inbox = self._inbox, []
        lost, self._lost = self._lost, []
        failure = self._store(inbox, lost)
        if self.stopped.done() or (failure is not None and not self._take_back(failure, inbox, lost)):
            return
        self.waits.hand_over()
        for connection in self._touched:
            connection.session.serial = max(connection.session.serial, *connection.stored, 0)
            connection.stored.clear()
            connection.flush()
        self._touched.clear()
        self._close_dropped()
        self._wake_at_due()
        if failure is None:
            self._tidy()
        else:
            self._timers.append(self._loop.call_later(_AFTER_FAILURE, self.schedule))

    def _store(self, inbox: list[tuple[Connection, Request]], lost: list[Connection]) -> Exception | None:
        """Do what came in and commit it; return what went wrong, after which nothing of it is stored."""
        ledger, touched = self.ledger, self._touched
        self._at = None
        try:
            for connection in lost:
                self._deaths.end(connection.session)
            self._deaths.blame_orphans()
            for place in inbox:
                self._at = place
                connection, request = place
                if connection.dropped or (connection.closed and request.verb in _OF_THE_LIVING):
                    continue
                touched.add(connection)
                self._perform(connection, request)
            self._at = None
            self._remove_left()
            if self._pruning:
                self._pruning = not self.verbs.records.prune()
            ledger.dispatch.promote()
            if ledger.dispatch.receivers:
                ledger.serve()
            self._remember_serials(touched)
            ledger.turn.commit()
        except (apsw.FullError, errors.StorageFull):
            return ledger.turn.out_of_space()
        except (apsw.IOError, apsw.CorruptError, apsw.NotADBError) as error:
            self._give_up(error)
        except Exception as error:  # one request must not take the others' answers with it
            return error
        return None

    def _remove_left(self) -> None:
        """Remove temporary queues that were left, a bounded part of them in each turn."""
        there = self.ledger.turn.routes.by_id
        self._removing = [queue for queue in self._removing if there.get(queue.id) is queue and not (queue.running or queue.dead)]
        for queue in self._removing:
            self.ledger.endings.purge(queue.name, True, None)

    def _take_back(self, failure: Exception, inbox: list[tuple[Connection, Request]], lost: list[Connection]) -> bool:
        """Undo a turn that failed, and say whether its requests are refused; else it is done again, without the one that is at fault."""
        try:
            self.ledger.undo()
        except apsw.Error as error:
            self._give_up(error)
            return False
        self._lost[:0] = lost
        self._deaths.undo()
        self._pruning = False
        self._take_back_answers(inbox)
        if isinstance(failure, errors.StorageFull):
            if self.room.make():
                log.error("%s: what is new is refused, what is stored goes on from the reserve", failure)
                self._begin_again(inbox)
                return False
            refusal: ChappeError = failure
        else:
            what = f"the engine failed ({type(failure).__name__}: {failure}); nothing was stored"
            if self._at is not None and not isinstance(failure, PASSING):
                connection, request = self._at
                log.error('the request "%s" failed: the turn is done again without it', request.verb, exc_info=failure)
                self._drop(connection, request, BrokerError(what))
                self._begin_again(inbox)
                return False
            log.error("a turn of %s failed and was undone", counted(len(inbox), "request"), exc_info=failure)
            refusal = errors.Rejected(what)
        self._refuse_all(inbox, refusal)
        return True

    def _begin_again(self, inbox: list[tuple[Connection, Request]]) -> None:
        """Do a turn again that was undone."""
        self._inbox[:0] = [(c, request) for c, request in inbox if not (request.verb == "receive" and request.serial in c.receiving)]
        self.schedule()

    def _drop(self, connection: Connection, request: Request, error: BrokerError) -> None:
        """Refuse a request, and have its client closed at the end of the turn: whoever breaks the protocol may not disturb others."""
        connection.refuse(request.serial, error)
        self._touched.add(connection)
        if not connection.dropped:
            connection.dropped = True
            self._dropped.append(connection)
            session = connection.session
            log.warning('client "%s" (%s) is dropped at its request "%s": %s', session.name, session.role, request.verb, error)

    def _close_dropped(self) -> None:
        while self._dropped:
            connection = self._dropped.pop()
            self.detach(connection)
            connection.abort()

    def _tidy(self) -> None:
        """Do what follows a turn, when its answers are on their way."""
        ledger = self.ledger
        self._deaths.tidy()
        self.room.keep_log_short()
        if ledger.turn.has_leftovers:
            ledger.turn.has_leftovers = False
            self._leftovers.remove(ledger.turn.body_files)
            ledger.turn.body_files.clear()
        if ledger.dispatch.unfinished or self._removing or self._pruning or ledger.turn.next_due <= ledger.turn.now():
            self.schedule()

    def _perform(self, connection: Connection, request: Request) -> None:
        serial, verb = request.serial, request.verb
        try:
            special = self.special.get(verb)
            if special is not None:
                special(connection, request)
                return
            connection.answer(serial, self.verbs.perform(connection.session, verb, request.arguments))
            if verb == "publish" and self.ledger.turn.writing:
                connection.stored.append(serial)
        except BrokenProtocol as error:
            self._drop(connection, request, error)
        except ChappeError as error:
            connection.refuse(serial, error)
            if verb == "publish":
                connection.refused[serial] = self._loop.time()
        except UNREADABLE as error:
            connection.refuse(serial, BrokerError(f'bad request: "{verb}": {error}'))

    def _take_back_answers(self, inbox: list[tuple[Connection, Request]]) -> None:
        """Forget what was to be answered in a turn that was undone; each of its clients hears of it all the same."""
        self._touched.update(connection for connection, _ in inbox)  # also those behind the request that failed
        for connection in self._touched:
            connection.outbox.clear()
            connection.stored.clear()

    def _refuse_all(self, inbox: list[tuple[Connection, Request]], error: ChappeError) -> None:
        for place in inbox:
            connection, request = place
            if request.verb == "receive" and request.serial in connection.receiving:
                continue  # it still waits
            blamed = place is self._at and (connection.blamed or request.verb != "hello")  # else it might fail in every turn of everybody
            if request.verb in _SAID_AGAIN and not blamed:
                connection.blamed = connection.blamed or place is self._at
                self._inbox.append(place)
                continue
            if request.verb == "publish":
                connection.refused[request.serial] = self._loop.time()
            connection.refuse(request.serial, error)

    def _remember_serials(self, touched: set[Connection]) -> None:
        """Store what a client that hears no answer must know: which of its publications are stored, up to the last, and which are not."""
        for connection in touched:
            session, stored = connection.session, connection.stored
            if stored and session.name:
                for serial in stored:
                    connection.refused.pop(serial, None)  # it was said again, and is stored this time
                if connection.refused:
                    before = self._loop.time() - _REFUSED_FOR
                    kept = [item for item in connection.refused.items() if item[1] >= before]
                    connection.refused = dict(kept[-_REFUSED_KEPT:])
                self.ledger.turn.remember_serial(session.name, max(session.serial, *stored), list(connection.refused))

    def _give_up(self, error: BaseException) -> None:
        """Stop at once after an I/O error or at a damaged page: what was not acknowledged was not promised (design §7)."""
        if isinstance(error, apsw.IOError):
            log.critical("the disk failed (%s); the engine stops, nothing was acknowledged falsely", error)
        else:
            log.critical("%s is damaged (%s); the engine stops, the file is left as it is: see chappe recover", self._path, error)
        if not self.stopped.done():
            self.stopped.set_result(error)

    # --- verbs of the engine itself

    def _with_process(self, engine: EngineStatus) -> EngineStatus:
        return replace(engine, pid=os.getpid(), started_at=self.started_at, turns=self.turns)

    def cancel_message(self, connection: Connection, request: Request) -> None:
        """Cancel what waits of a message, and tell those who hold it."""
        state = self.verbs.perform(connection.session, "cancel_message", request.arguments)
        (message_id,) = DECODERS["cancel_message"](request.arguments)
        for other in self.connections:
            tags = [tag for tag, claim in other.session.claims.items() if claim.message_id == message_id]
            if tags:
                other.outbox += [frame((UNASKED, None, tag)) for tag in tags]
                self._touched.add(other)
        connection.answer(request.serial, state)

    # --- time

    def _wake_at_due(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None
        due = self.ledger.turn.next_due - self.ledger.turn.now()
        if self.ledger.dispatch.suspects.wait:  # who is to run them is looked at again
            due = min(due, _LOOK_FOR_SESSION)
        if due != float("inf"):
            self._due = self._loop.call_later(min(3600.0, max(0.0, due)), self.schedule)

    def _serve_after(self, grace: float) -> None:
        at = self._loop.time() + grace
        self._timers.append(self._loop.call_at(at, self._serve_again, at, grace))

    def _serve_again(self, at: float, grace: float) -> None:
        """Lend again, after those who held something had the time to come back; blame what dead workers were running."""
        if grace and self._loop.time() > at + _LATE:  # we stood still ourselves, and could hear nobody
            self._serve_after(grace)
            return
        self.ledger.dispatch.held_back = False
        self._deaths.find_orphans()
        self.schedule()

    def _prune(self) -> None:
        self._timers = [timer for timer in self._timers if not timer.cancelled() and timer.when() > self._loop.time()]
        self.prune()
        self._timers.append(self._loop.call_later(_PRUNE_EVERY, self._prune))

    def prune(self) -> None:
        """Begin to delete what was kept long enough, a bounded part of it in each turn."""
        self._pruning = self.ledger.turn.has_leftovers = True
        self.schedule()

    def _fence(self) -> None:
        now = self._loop.time()
        limit = now - FENCE
        if now > self._fence_at + 1.0:  # we were not running ourselves, and could hear nobody
            for connection in self.connections:
                connection.session.last_seen = now
        self._fence_at = now + FENCE / 4
        for connection in list(self.connections):
            session = connection.session
            if session.claims and session.last_seen < limit and not self._deaths.lives(session, limit):
                held = counted(len(session.claims), "message")
                log.warning("client %s was silent for %g s while holding %s, given to others now", session.name, FENCE, held)
                self.detach(connection)
                connection.abort()
        here = {connection.session.name for connection in self.connections}
        left = {queue for queue in self.ledger.turn.routes.queues.values() if queue.owner and queue.owner not in here}
        self._removing, self._left = list(left & self._left), left
        if self._removing:
            self.schedule()
        self._timers.append(self._loop.call_later(FENCE / 4, self._fence))
