"""A client of the engine: many calls in flight, one write a turn, and a connection that heals.

When the engine dies, calls wait for its successor until their deadline. A publication that was in flight is
not repeated blindly: the successor says which request of this client was the last to be stored.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec
from msgspec import Raw

from chappe.engines.contract.broker import Retry
from chappe.engines.file.bodies import LARGE, Bodies
from chappe.engines.file.ledger import Ledger, owned_for_a_moment
from chappe.engines.file.link import Link
from chappe.engines.file.owner import socket_path
from chappe.engines.file.queues import Session
from chappe.engines.file.server import Engine
from chappe.engines.file.verbs import DECODERS, HARMLESS, Verbs
from chappe.engines.file.wire import (
    LARGEST_FRAME,
    PROTOCOL,
    UNASKED,
    UNREADABLE,
    Failure,
    Frames,
    decode_answer,
    decode_request,
    encode,
    error_of,
    frame,
)
from chappe.errors import AlreadyOwned, BrokerError, BrokerUnavailable, ChappeError, Rejected, Unconfirmed, UnsafeStorage
from chappe.forking import in_child
from chappe.messages.envelope import Publication

DEADLINE: Final = 5.0
_BEAT: Final = 2.0
_SWEEP: Final = 1.0
_LATE: Final = 0.01
_RETRY: Final = 0.05
_WAITS: Final = frozenset({"receive", "result", "await_archived"})

Decode = Callable[[Raw], Any]
_publications: Final = msgspec.msgpack.Decoder(tuple[list[Publication]]).decode
decode_plain: Final[Decode] = msgspec.msgpack.Decoder().decode


class _Call(msgspec.Struct, eq=False):
    """A request that has no answer yet."""

    serial: int
    verb: str
    body: bytes
    decode: Decode
    expires: float
    future: asyncio.Future[Any]
    sent: bool = False


class Holding(Protocol):
    """What is lent over a client's connection."""

    @property
    def has_temporary(self) -> bool: ...
    def held(self) -> list[tuple[str, int]]: ...
    def lose(self, tags: set[int]) -> None: ...
    def cancelled(self, tag: int) -> None: ...


class Client:
    """Speaks the engine's verbs from one event loop."""

    def __init__(
        self,
        path: Path,
        *,
        role: str = "client",
        info: dict[str, Any] | None = None,
        may_own_file: bool = True,
        engine: Engine | None = None,
        deadline: float = DEADLINE,
        large_body: int = LARGE,
    ) -> None:
        """Prepare a client of the engine of a file; it connects with the first call.

        `may_own_file`: where no engine runs, own the file for the moment of a call. `engine`: speak to an engine in
        this process. `deadline`: seconds after which a call fails. `large_body`: bytes above which a body is in a file of its own.
        """
        self.path = path
        self.bodies = Bodies(path, large_body)
        self.deadline = deadline
        self.role = role
        self.info = info or {}
        self.consumers = set[Holding]()
        self.name = f"{socket.gethostname()}:{os.getpid()}:{random.getrandbits(32):08x}"
        self._may_own_file = may_own_file
        self._engine = engine
        self._frames = Frames()
        self._calls: dict[int, _Call] = {}
        self._abandoned: set[int] = set()
        self._serial = 0
        self._outbox: list[bytes] = []
        self._flushing = False
        self._write: Callable[[bytes], None] | None = None
        self._close_link: Callable[[], None] = lambda: None
        self._link: object = None
        self._connector: asyncio.Task[None] | None = None
        self._hello = -1
        self._closed = ""  # why, once it is
        self._loop = asyncio.get_running_loop()
        self._sweep_at = self._loop.time() + _SWEEP
        self._sweeper = self._loop.call_at(self._sweep_at, self._sweep)
        self._beat_at = self._loop.time() + _BEAT
        in_child(self.leave)  # what the child wrote into the connection would be taken for its parent's word

    # --- calling

    def call(self, verb: str, *arguments: Any, decode: Decode = decode_plain, deadline: float | None = None) -> asyncio.Future[Any]:
        """Send a request and return the future of its answer.

        Fails with the engine's refusal, or with `BrokerUnavailable` or `Unconfirmed` after `deadline` seconds.
        """
        if self._closed:
            raise BrokerUnavailable(self._closed)
        self._serial += 1
        serial = self._serial
        future: asyncio.Future[Any] = self._loop.create_future()
        body = frame((serial, verb, arguments))
        if len(body) > LARGEST_FRAME:
            raise Rejected(f"{len(body)} bytes are more than the {LARGEST_FRAME} that can be sent at once; send fewer or smaller messages")
        call = _Call(serial, verb, body, decode, self._loop.time() + (deadline or self.deadline), future)
        self._calls[serial] = call
        if call.expires < self._sweep_at:
            self._sweep_next(call.expires)
        if self._write is not None and self._hello < 0:
            call.sent = True
            self._outbox.append(body)
            if not self._flushing:
                self._flushing = True
                self._loop.call_soon(self._flush)
        elif self._connector is None and self._write is None:  # else hello is on its way, and what waits follows it
            self._connector = self._loop.create_task(self._connect())
        return future

    def hurry(self, serial: int) -> None:
        """Ask that a waiting `receive` be answered now."""
        if serial in self._calls and self._write is not None:
            self.call("cancel", serial)

    @property
    def serial(self) -> int:
        """The number of the latest call."""
        return self._serial

    async def close(self) -> None:
        """Close the connection; calls without an answer fail."""
        if self._closed:
            return
        self._flush()
        self._closed = "this client is closed"
        self._sweeper.cancel()
        if self._connector is not None:
            self._connector.cancel()
        self._close_link()
        self._write = None
        for call in self._calls.values():
            if not call.future.done():
                call.future.set_exception(_unanswered(call, "the client was closed before the answer came"))
                call.future.exception()
        self._calls.clear()

    def leave(self) -> None:
        """Leave the connection to the parent of this forked child, without a word to the engine."""
        self._closed = "this connection is of the process that was forked; make another one in the child"
        link, self._link = self._link, None
        self._forget_link()
        if isinstance(link, Link):
            link.leave()

    # --- the link

    def _flush(self) -> None:
        self._flushing = False
        if self._outbox and self._write is not None:
            self._write(b"".join(self._outbox))
        self._outbox.clear()

    async def _connect(self) -> None:
        try:
            while self._wanted and not self._closed:
                if self._engine is not None:
                    self._link_local(self._engine)
                    return
                try:
                    await self._loop.create_unix_connection(lambda: Link(self), str(socket_path(self.path)))
                    if self._write is not None:
                        return  # else it was lost again before we heard of it: a dying engine still had us in its backlog
                except UnsafeStorage as error:  # it does not pass by itself
                    self._fail_all(error)
                except OSError:
                    for call in [call for call in self._calls.values() if call.verb == "await_archived"]:
                        self._answer(call, False)  # nobody is there who would tell
                    if self._may_own_file and any(call.verb not in _WAITS for call in self._calls.values()):
                        self._own_for_a_moment()
                if self._wanted:
                    await asyncio.sleep(_RETRY)
        finally:
            self._connector = None

    def _link_local(self, engine: Engine) -> None:
        frames = Frames()
        link = object()
        connection = engine.attach(
            lambda data: self._loop.call_soon(self.received, link, data) and None,
            lambda: self._loop.call_soon(self.unlinked, link) and None,
        )

        def write(data: bytes) -> None:
            for body in frames.feed(data):
                engine.submit(connection, decode_request(body))

        self.linked(link, write, lambda: engine.detach(connection))

    def linked(self, link: object, write: Callable[[bytes], None], close: Callable[[], None]) -> None:
        """Take a fresh connection into use: say hello, then everything that waits."""
        self._close_link()
        self._link = link
        self._frames = Frames()
        self._write = write
        self._close_link = close
        self._serial += 1
        self._hello = self._serial
        held = self.held()
        hello = {"protocol": PROTOCOL, "name": self.name, "role": self.role, "info": self.info, "held": held}
        write(frame((self._hello, "hello", (hello,))))
        self._held = {tag for _, tag in held}

    def unlinked(self, link: object) -> None:
        """Notice that the connection is gone; what waits is sent again over the next."""
        if link is not self._link:
            return
        self._forget_link()
        if not self._closed and self._wanted and self._connector is None:
            self._connector = self._loop.create_task(self._connect())

    def _forget_link(self) -> None:
        self._write = None
        self._close_link = lambda: None
        self._hello = -1
        self._outbox.clear()
        self._abandoned.clear()  # the engine gives back what it lent over it

    @property
    def _wanted(self) -> bool:
        """Whether a connection is needed: somebody waits for an answer, or what is held must be claimed again."""
        return bool(self._calls or any(consumer.has_temporary for consumer in self.consumers) or self.held())

    def held(self) -> list[tuple[str, int]]:
        """Return the queue and tag of everything that is out."""
        return [place for consumer in self.consumers for place in consumer.held()]

    def received(self, link: object, data: bytes | memoryview) -> None:
        """Take bytes from the engine."""
        if link is not self._link:
            return
        calls = self._calls
        for body in self._frames.feed(data):
            answer = decode_answer(body)
            if answer.serial == UNASKED:
                tag = decode_plain(answer.value)
                for consumer in self.consumers:
                    consumer.cancelled(tag)
                continue
            if answer.serial == self._hello:
                self._welcomed(answer.failure, answer.value)
                continue
            call = calls.pop(answer.serial, None)
            if call is None and answer.serial in self._abandoned:
                self._abandoned.discard(answer.serial)
                if answer.failure is None:
                    self._give_back(answer.value)
            if call is None or call.future.done():
                continue
            if answer.failure is not None:
                call.future.set_exception(error_of(answer.failure))
                continue
            try:
                call.future.set_result(call.decode(answer.value))
            except UNREADABLE as error:
                call.future.set_exception(BrokerError(f'the answer to "{call.verb}" cannot be read: {error}'))

    def _give_back(self, value: Raw) -> None:
        """Return, uncounted, what was lent to a `receive` that had been given up."""
        lent: list[Any] = decode_plain(value)
        if lent:  # not by `call`, which would say it again over the next connection: the engine may have lent them to us once more
            self._serial += 1
            self._outbox.append(frame((self._serial, "settle", ([Retry(row[0], 0.0, counted=False) for row in lent],))))
            self._flush()

    def _welcomed(self, failure: Failure | None, value: Raw) -> None:
        self._hello = -1
        if failure is not None:
            self._link, close = None, self._close_link  # the next call connects again: by ourselves we would do nothing else
            self._forget_link()
            close()
            self._fail_all(error_of(failure))
            return
        welcome = decode_plain(value)
        lost = self._held - set(welcome["kept"])
        for consumer in self.consumers:
            consumer.lose(lost)
        stored, refused = int(welcome["stored"]), frozenset[int](welcome["refused"])
        for call in list(self._calls.values()):
            if self._is_stored(call, stored, refused):
                self._confirm(call)
                continue
            # All other verbs may be said twice: what was settled is refused as stale, what fired is not fired again.
            call.sent = True
            self._outbox.append(call.body)
        self._flush()

    def _is_stored(self, call: _Call, stored: int, refused: Collection[int]) -> bool:
        """Tell whether a publication that was sent over a connection that broke had been stored by then."""
        return call.sent and call.verb == "publish" and call.serial <= stored and call.serial not in refused

    def _confirm(self, call: _Call) -> None:
        """Answer a publication that was stored just before the engine died."""
        (said,) = _publications(decode_request(call.body[4:]).arguments)
        if any(p.options is not None for p in said):
            self._finish(call, Unconfirmed("the engine was restarted before it answered; send again with an idempotency key"))
        else:
            self._answer(call, call.decode(Raw(encode([(p.envelope.id,) for p in said]))))

    def _own_for_a_moment(self) -> None:
        """Do what waits as the owner of the file, where no engine runs."""
        try:
            with owned_for_a_moment(self.path) as ledger:
                verbs, session = Verbs(ledger), Session(self.name)
                stored, refused = ledger.turn.stored_of(self.name)
                for call in list(self._calls.values()):
                    if self._is_stored(call, stored, refused):
                        self._confirm(call)
                    else:
                        self._perform(call, ledger, verbs, session)
        except AlreadyOwned:
            return  # an engine is starting, or another sender is in its moment
        except ChappeError as error:
            self._fail_all(error)

    def _perform(self, call: _Call, ledger: Ledger, verbs: Verbs, session: Session) -> None:
        request = decode_request(call.body[4:])
        if call.verb in _WAITS:
            return  # an engine may still come, until the deadline
        if call.verb not in DECODERS:
            self._finish(call, BrokerUnavailable(f'no engine runs for {self.path}, and "{call.verb}" needs one: start "chappe run"'))
            return
        try:
            value = verbs.perform(session, call.verb, request.arguments)
            ledger.turn.commit()
        except (ChappeError, *UNREADABLE) as error:
            ledger.undo()
            self._finish(call, error if isinstance(error, ChappeError) else BrokerError(f"bad request: {error}"))
            return
        self._answer(call, call.decode(Raw(encode(value))))

    # --- time

    def _sweep(self) -> None:
        now = self._loop.time()
        for call in [c for c in self._calls.values() if c.expires < now]:
            if call.verb == "receive":
                self._answer(call, [])
                if call.sent and self._write is not None and self._hello < 0:
                    self._abandoned.add(call.serial)
            else:
                why = f'the engine of {self.path} did not answer "{call.verb}" in time'
                self._finish(call, _unanswered(call, why, '; is "chappe run" up?'))
        if self._write is not None and self._hello < 0 and now >= self._beat_at:
            self._beat_at = now + _BEAT
            if self.held():
                self.call("ping").add_done_callback(lambda future: future.cancelled() or future.exception())
        self._sweep_next(min((call.expires for call in self._calls.values()), default=now + _SWEEP))

    def _sweep_next(self, at: float) -> None:
        self._sweeper.cancel()
        now = self._loop.time()
        self._sweep_at = min(now + _SWEEP, max(at, now) + _LATE)
        self._sweeper = self._loop.call_at(self._sweep_at, self._sweep)

    def _answer(self, call: _Call, value: object) -> None:
        self._calls.pop(call.serial, None)
        if not call.future.done():
            call.future.set_result(value)

    def _finish(self, call: _Call, error: ChappeError) -> None:
        self._calls.pop(call.serial, None)
        if not call.future.done():
            call.future.set_exception(error)

    def _fail_all(self, error: ChappeError) -> None:
        for call in list(self._calls.values()):
            self._finish(call, _unanswered(call, str(error)) if isinstance(error, BrokerUnavailable) else error)


def _unanswered(call: _Call, why: str, hint: str = "") -> BrokerError:
    """Return the error of a call without an answer: what was sent, and changes something, may have been done."""
    if call.sent and call.verb not in HARMLESS:
        return Unconfirmed(f"{why}; it may be stored or not")
    return BrokerUnavailable(why + hint)
