"""The engine's loop: gathers what arrives in one turn, has the ledger commit it, then answers.

One process runs it for each file. It holds no user code, starts no threads, and polls nothing.
"""

from __future__ import annotations

import asyncio
import collections
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final, cast

import apsw
import msgspec
from msgspec import Raw

from chappe import errors
from chappe.engines.file import running_tables
from chappe.engines.file.boot import is_of_this_boot
from chappe.engines.file.clock import steady_clock
from chappe.engines.file.connection import BrokenProtocol, Connection, Hello
from chappe.engines.file.database import PASSING
from chappe.engines.file.dispatch import Receiver
from chappe.engines.file.ledger import Ledger
from chappe.engines.file.owner import Ownership
from chappe.engines.file.purge import Purge
from chappe.engines.file.queues import QueueState, Session
from chappe.engines.file.reserve import Reserve, free_bytes
from chappe.engines.file.verbs import DECODERS, Verbs
from chappe.engines.file.wire import PROTOCOL, UNREADABLE, Request, Wait, encode
from chappe.errors import BrokerError, ChappeError
from chappe.words import counted

log = logging.getLogger("chappe.file")

GRACE: Final = 0.5  # seconds for clients to come back with what they hold, after an engine died
FENCE: Final = 10.0  # seconds of silence after which a client that holds messages is given up
_PRUNE_EVERY: Final = 60.0
_AFTER_FAILURE: Final = 0.1
_LOOK_FOR_ROOM: Final = 1.0
_LOOK_FOR_SESSION: Final = 1.0
_LATE: Final = 0.1
_MORE_ROOM: Final = 64 * 1024  # bytes more than when the log could not be written back: it is tried again at once, before they are in it
_LOCK_ENDS: Final = 1.0
_REFUSED_FOR: Final = 30.0  # seconds: no client waits so long for the answer to a publication
_REFUSED_KEPT: Final = 10_000
_OF_THE_LIVING: Final = frozenset({"hello", "receive"})  # what a closed connection must not have done
_MOST_WAITING: Final = 1_000  # requests of one client that wait for deliveries
_LARGEST_INFO: Final = 64 * 1024  # bytes that a client may say of itself
_SAID_AGAIN: Final = frozenset({"hello", "receive", "cancel"})  # what no client repeats by itself when it is refused


_hello: Final = msgspec.msgpack.Decoder(tuple[Hello]).decode
_receive: Final = msgspec.msgpack.Decoder(tuple[list[str], Annotated[int, msgspec.Meta(le=1_000_000)], Wait]).decode
_result: Final = msgspec.msgpack.Decoder(tuple[str, Wait]).decode
_purge: Final = DECODERS["purge"]
_cancel: Final = msgspec.msgpack.Decoder(tuple[int]).decode


class Engine:
    """Owns the ledger and runs its turns inside an event loop."""

    def __init__(self, path: Path, *, now: Callable[[], float] | None = None, grace: float = GRACE) -> None:
        """Open the file. Raises `AlreadyOwned`, `UnsafeStorage` or `CorruptStorage`."""
        self._path = path
        self._ownership = Ownership(path)
        self._reserve = Reserve(path)
        try:
            laid = self._reserve.lay()
            self.ledger = Ledger(path, now or steady_clock())
        except BaseException:
            self._ownership.close()
            raise
        self.ledger.turn.full = not laid
        self.verbs = Verbs(self.ledger)
        self.connections: set[Connection] = set()
        self.started_at = time.time()
        self.turns = 0
        self._inbox: list[tuple[Connection, Request]] = []
        self._left: set[QueueState] = set()  # temporary queues whose owners were not here at the last look
        self._nobody = Connection(lambda _: None, lambda: None)  # who asks for what the engine does by itself
        self._at: tuple[Connection, Request] | None = None  # the request that is being performed
        self._stepping = False  # whether the purges are
        self._waiters: dict[str, list[Callable[[Any], None]]] = collections.defaultdict(list)
        self._lost: list[Connection] = []
        self._dropped: list[Connection] = []
        self._scheduled = False
        self._due: asyncio.TimerHandle | None = None
        self._timers: list[asyncio.TimerHandle] = []
        self._loop = asyncio.get_running_loop()
        self._touched: set[Connection] = set()
        self._read_tables: list[Path] = []
        self._orphans: list[Path] = []
        self._purges: dict[tuple[Connection, int], Purge] = {}
        self._log_rests_until = 0.0
        self._log_rests_below = 0  # free bytes
        self._purged: list[tuple[Connection, int]] = []
        self._pruning = False
        self.stopped: asyncio.Future[BaseException | None] = self._loop.create_future()
        self.ledger.dispatch.held_back = self.ledger.turn.was_held
        self._serve_after(grace if self.ledger.turn.was_held else 0.0)
        self._timers.append(self._loop.call_later(_PRUNE_EVERY, self._prune))
        self._fence_at = self._loop.time() + FENCE / 4
        self._timers.append(self._loop.call_later(FENCE / 4, self._fence))
        self._wake_at_due()
        if self.ledger.turn.full:
            self._look_for_room()

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
            for wake in list(connection.waiting.values()):
                wake(None)
            self.connections.discard(connection)
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
        for connection in list(self.connections):
            for _, timer in connection.receiving.values():
                timer.cancel()
            connection.closed = True
        self.connections.clear()
        self.ledger.close()
        self._reserve.remove()
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
        self._hand_over()
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
        self._at, self._stepping = None, False
        try:
            for connection in lost:
                self._end_connection(connection)
            self._blame_orphans()
            for place in inbox:
                self._at = place
                connection, request = place
                if connection.dropped or (connection.closed and request.verb in _OF_THE_LIVING):
                    continue
                touched.add(connection)
                self._perform(connection, request)
            self._at = None
            self._step_purges()
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

    def _take_back(self, failure: Exception, inbox: list[tuple[Connection, Request]], lost: list[Connection]) -> bool:
        """Undo a turn that failed, and say whether its requests are refused; else it is done again, without the one that is at fault."""
        try:
            self.ledger.undo()
        except apsw.Error as error:
            self._give_up(error)
            return False
        self._lost[:0] = lost
        self._read_tables.clear()
        self._purged.clear()
        self._pruning = False
        self._take_back_answers(inbox)
        if isinstance(failure, errors.StorageFull):
            if self._make_room():
                self.ledger.turn.full = True
                log.error("%s: what is new is refused, what is stored goes on from the reserve", failure)
                self._begin_again(inbox, failure)
                self._timers.append(self._loop.call_later(_LOOK_FOR_ROOM, self._look_for_room))
                return False
            refusal: ChappeError = failure
        else:
            what = f"the engine failed ({type(failure).__name__}: {failure}); nothing was stored"
            if self._at is not None and not isinstance(failure, PASSING):
                connection, request = self._at
                log.error('the request "%s" failed: the turn is done again without it', request.verb, exc_info=failure)
                self._drop(connection, request, BrokerError(what))
                self._begin_again(inbox, BrokerError(what) if self._stepping else None)
                return False
            log.error("a turn of %s failed and was undone", counted(len(inbox), "request"), exc_info=failure)
            refusal = errors.Rejected(what)
        self._refuse_all(inbox, refusal)
        self._refuse_purges(refusal)
        return True

    def _drop(self, connection: Connection, request: Request, error: BrokerError) -> None:
        """Refuse a request, and have its client closed at the end of the turn: whoever breaks the protocol may not disturb others."""
        connection.refuse(request.serial, error)
        self._touched.add(connection)
        if not (connection.dropped or connection is self._nobody):
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
        self._orphans.clear()
        for done in self._purged:
            del self._purges[done]
        self._purged.clear()
        while self._read_tables:
            self._clear_away(self._read_tables.pop(), again=True)
        self._checkpoint_if_long()
        if ledger.dispatch.unfinished or self._purges or self._pruning or ledger.turn.next_due <= ledger.turn.now():
            self.schedule()

    def _clear_away(self, table: Path, *, again: bool) -> None:
        """Remove the table of a worker that is dead; one that was only given up still writes into it."""
        if running_tables.is_orphan(table):
            table.unlink(missing_ok=True)
        elif again:  # of a process that was killed, its connection may end a moment before its lock
            self._timers.append(self._loop.call_later(_LOCK_ENDS, lambda: self._clear_away(table, again=False)))

    def _checkpoint_if_long(self) -> None:
        if self._loop.time() < self._log_rests_until and free_bytes(self._path.parent) <= self._log_rests_below:
            return
        self._write_back(self.ledger.turn.log.checkpoint_if_long)

    def _write_back(self, write: Callable[[], None]) -> None:
        try:
            write()
        except (apsw.FullError, apsw.BusyError) as error:
            self._log_rests_until = self._loop.time() + _LOOK_FOR_ROOM
            self._log_rests_below = free_bytes(self._path.parent) + _MORE_ROOM
            log.warning("the log cannot be written back now: %s", error)  # it grows until it can
        except (apsw.IOError, apsw.CorruptError) as error:
            self._give_up(error)

    def _perform(self, connection: Connection, request: Request) -> None:
        serial, verb = request.serial, request.verb
        try:
            special = _SPECIAL.get(verb)
            if special is not None:
                special(self, connection, request)
                return
            decode = DECODERS.get(verb)
            if decode is None:
                raise BrokerError(f'bad request: no verb is called "{verb}"')
            arguments = decode(request.arguments)
            connection.answer(serial, getattr(self.verbs, verb)(connection.session, *arguments))
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

    def _hand_over(self) -> None:
        ledger = self.ledger
        for receiver, lent in ledger.dispatch.served:
            receiver.reply(lent)
        ledger.dispatch.served.clear()
        for message_id in ledger.turn.finished:
            for wake in self._waiters.pop(message_id, ()):
                wake(message_id)
        ledger.turn.finished.clear()

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

    def _end_connection(self, connection: Connection) -> None:
        ledger, session = self.ledger, connection.session
        for receiver, timer in connection.receiving.values():
            timer.cancel()
            if receiver in ledger.dispatch.receivers:
                ledger.dispatch.receivers.remove(receiver)
        table = running_tables.table_named(self._path, session.info.get("table"))
        if session.claims:
            who = f'worker "{session.info.get("pool", session.name)}" (process {session.info.get("pid", "unknown")})'
            ledger.endings.give_back(session, running_tables.read_table(table) if table else None, who)
        ledger.dispatch.suspects.close(session)
        if table:
            self._read_tables.append(table)

    # --- verbs that wait, or are about the connection itself

    def say_hello(self, connection: Connection, request: Request) -> None:
        """Take a client's name, and give back what it held before its connection was cut."""
        (hello,) = _hello(request.arguments)
        if hello.protocol != PROTOCOL:
            raise BrokerError(f"this engine speaks protocol {PROTOCOL}, the client {hello.protocol}; restart both with the same chappe")
        if connection.hello is not None and connection.hello is not request:
            raise BrokenProtocol("bad request: a client says hello once")
        if len(encode(hello.info)) > _LARGEST_INFO:
            raise BrokenProtocol(f"bad request: a client may say {_LARGEST_INFO} bytes of itself")
        connection.hello = request
        session = connection.session
        session.name, session.role, session.info = hello.name, hello.role, hello.info
        if hello.info.get("suspects") is True:
            self.ledger.dispatch.suspects.open(session, [name for name in _listed(hello.info.get("queues")) if isinstance(name, str)])
        kept = self.ledger.dispatch.adopt(session, hello.held)
        stored, refused = self.ledger.turn.stored_of(hello.name)
        session.serial = stored
        connection.refused = dict.fromkeys(refused, self._loop.time()) | connection.refused
        connection.answer(request.serial, {"kept": kept, "stored": stored, "refused": refused})

    def receive(self, connection: Connection, request: Request) -> None:
        """Have a client wait for deliveries."""
        names, limit, wait = _receive(request.arguments)
        queues = [self.ledger.turn.routes.queue(name) for name in names]
        serial = request.serial
        if serial in connection.receiving:
            raise BrokenProtocol(f"bad request: {serial} waits for deliveries already")
        if len(connection.receiving) >= _MOST_WAITING:
            raise BrokenProtocol(f"bad request: more than {_MOST_WAITING} requests wait for deliveries")
        if limit <= 0:
            connection.answer(serial, [])
            return

        def reply(lent: list[Any]) -> None:
            _, timer = connection.receiving.pop(serial)
            timer.cancel()
            connection.answer(serial, lent)
            self._touched.add(connection)

        def expire() -> None:
            connection.receiving.pop(serial, None)
            if receiver in self.ledger.dispatch.receivers:
                self.ledger.dispatch.receivers.remove(receiver)
            connection.answer(serial, [])
            connection.flush()

        receiver = Receiver(connection.session, queues, limit, reply)
        connection.receiving[serial] = (receiver, self._loop.call_later(max(0.0, wait), expire))
        self.ledger.dispatch.receivers.append(receiver)

    def cancel(self, connection: Connection, request: Request) -> None:
        """Answer a waiting `receive` now."""
        (serial,) = _cancel(request.arguments)
        found = connection.receiving.get(serial)
        if found is not None and found[0] in self.ledger.dispatch.receivers:
            self.ledger.dispatch.receivers.remove(found[0])
            self.ledger.dispatch.served.append((found[0], []))  # so that it waits on if this turn is undone
        connection.answer(request.serial, None)

    def await_result(self, connection: Connection, request: Request) -> None:
        """Answer when a tracked message ended, or after the wait."""
        message_id, wait = _result(request.arguments)
        state = self.verbs.records.state(message_id)
        if state["state"] in ("done", "dead") or wait <= 0:
            connection.answer(request.serial, state)
            return

        def answer() -> None:
            try:
                connection.answer(request.serial, self.verbs.records.state(message_id))
            except ChappeError as error:  # what is known of a message that ended is forgotten some day
                connection.refuse(request.serial, error)

        def wake(_: Any) -> None:
            timer.cancel()
            connection.waiting.pop(request.serial, None)
            waiting = self._waiters.get(message_id)
            if waiting is not None and wake in waiting:
                waiting.remove(wake)
                if not waiting:
                    del self._waiters[message_id]
            if not connection.closed:
                answer()
                connection.flush()

        timer = self._loop.call_later(wait, wake, None)
        self._waiters[message_id].append(wake)
        connection.waiting[request.serial] = wake

    def purge(self, connection: Connection, request: Request) -> None:
        """Begin to empty a queue, a bounded part of it in each turn."""
        queue, delete = _purge(request.arguments)
        if (connection, request.serial) in self._purges:
            raise BrokenProtocol(f"bad request: {request.serial} is a purge that goes on already")
        self._purges[connection, request.serial] = Purge(self.ledger, queue, delete=delete)

    def _clear_after(self) -> None:
        """Begin to remove the temporary queues of clients that are gone."""
        here = {connection.session.name for connection in self.connections}
        left = {queue for queue in self.ledger.turn.routes.queues.values() if queue.owner and queue.owner not in here}
        for queue in left & self._left:  # who was missed before too does not come back
            if not (queue.closed or queue.running or queue.dead):
                self._purges[self._nobody, queue.id] = Purge(self.ledger, queue.name, delete=True)
                self.schedule()
        self._left = left

    def _step_purges(self) -> None:
        self._stepping = True
        for (connection, serial), purge in self._purges.items():
            self._at = (connection, Request(serial, "purge", Raw(b"")))
            try:
                if not purge.step():
                    continue
                connection.answer(serial, purge.count)
            except BrokerError as error:
                connection.refuse(serial, error)
                purge.abandon()
            self._touched.add(connection)
            self._purged.append((connection, serial))
        self._at = None

    def _refuse_purges(self, error: ChappeError) -> None:
        for (connection, serial), purge in self._purges.items():
            purge.abandon()
            connection.refuse(serial, error)
            connection.flush()
        self._purges.clear()

    def ping(self, connection: Connection, request: Request) -> None:
        """Answer, to show that both sides live."""
        connection.answer(request.serial, None)

    def overview(self, connection: Connection, request: Request) -> None:
        """Tell what an operator asks first."""
        clients = [
            {
                **{k: v for k, v in c.session.info.items() if k != "table"},
                "name": c.session.name,
                "role": c.session.role,
                "holding": len(c.session.claims),
            }
            for c in self.connections
            if c.session.name
        ]
        overview = self.verbs.overview(connection.session)
        overview["engine"] |= {"pid": os.getpid(), "started_at": self.started_at, "turns": self.turns, "full": self.ledger.turn.full}
        overview["clients"] = clients
        for queue in overview["queues"]:
            owner = self.ledger.turn.routes.queue(queue["name"]).owner
            queue["consumers"] = sum(1 for c in clients if c["name"] == owner or queue["name"] in _listed(c.get("queues")))
        connection.answer(request.serial, overview)

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
        self._orphans = running_tables.orphans(self._path)
        self.schedule()

    def _blame_orphans(self) -> None:
        for table in self._orphans:
            if is_of_this_boot(table):
                account = running_tables.read_table(table) or running_tables.NOBODY
                for tag in account.suspects:
                    self.ledger.endings.blame(tag, account)
            self._read_tables.append(table)

    # --- room on the disk

    def _begin_again(self, inbox: list[tuple[Connection, Request]], refusal: ChappeError | None = None) -> None:
        """Do a turn again that was undone; `refusal` is for the purges that had been going on."""
        for connection, request in inbox:
            if request.verb == "purge" and (begun := self._purges.pop((connection, request.serial), None)) is not None:
                begun.abandon()  # it begins again with its request
        if refusal is not None:
            self._refuse_purges(refusal)
        self._inbox[:0] = [(c, request) for c, request in inbox if not (request.verb == "receive" and request.serial in c.receiving)]
        self.schedule()

    def _make_room(self) -> bool:
        return self._reserve.give_up(lambda: self._write_back(self.ledger.turn.log.write_back), self.ledger.turn.log.grow)

    def _look_for_room(self) -> None:
        if self._find_room():
            if self.ledger.turn.full:
                log.warning("there is room again in %s", self._path.parent)
            self.ledger.turn.full = False
        else:
            self._timers.append(self._loop.call_later(_LOOK_FOR_ROOM, self._look_for_room))

    def _find_room(self) -> bool:
        """Lay the reserve, if need be where the log was: it may be long when it could not be written back."""
        if self._reserve.lay():
            return True
        if not self._reserve.fits_beside(self.ledger.turn.log.size()):
            return False
        self._write_back(self.ledger.turn.log.give_back)
        return not self.stopped.done() and self._reserve.lay()

    def _prune(self) -> None:
        self._timers = [timer for timer in self._timers if not timer.cancelled() and timer.when() > self._loop.time()]
        self.prune()
        self._timers.append(self._loop.call_later(_PRUNE_EVERY, self._prune))

    def prune(self) -> None:
        """Begin to delete what was kept long enough, a bounded part of it in each turn."""
        self._pruning = True
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
            if session.claims and session.last_seen < limit and not self._lives(session, limit):
                log.warning(
                    "client %s was silent for %g s while holding %s, given to others now",
                    session.name,
                    FENCE,
                    counted(len(session.claims), "message"),
                )
                self.detach(connection)
                connection.abort()
        self._clear_after()
        self._timers.append(self._loop.call_later(FENCE / 4, self._fence))

    def _lives(self, session: Session, limit: float) -> bool:
        """Tell whether a silent worker is not frozen: its loop is kept by a handler, but its process beats."""
        table = running_tables.table_named(self._path, session.info.get("table"))
        return table is not None and running_tables.last_beat(table) > time.monotonic() - (self._loop.time() - limit)


def _listed(names: object) -> list[object]:
    """Return what a client says is a list, as one."""
    return cast("list[object]", names) if isinstance(names, list) else []


_SPECIAL: Final[dict[str, Callable[[Engine, Connection, Request], None]]] = {
    "hello": Engine.say_hello,
    "receive": Engine.receive,
    "cancel": Engine.cancel,
    "result": Engine.await_result,
    "purge": Engine.purge,
    "ping": Engine.ping,
    "overview": Engine.overview,
}
