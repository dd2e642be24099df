"""Requests that are not answered at once, and what a client says of itself: who waits for messages, and for results."""

from __future__ import annotations

import asyncio
import collections
from collections.abc import Callable
from typing import Annotated, Any, Final

import msgspec

from chappe.bounds import Number
from chappe.engines.contract.results import ENDED
from chappe.engines.file import archiving
from chappe.engines.file.connection import BrokenProtocol, Connection, Hello
from chappe.engines.file.dispatch import Receiver
from chappe.engines.file.ledger import Ledger
from chappe.engines.file.queues import listed
from chappe.engines.file.records import Records
from chappe.engines.file.turn import ARCHIVED
from chappe.engines.file.wire import PROTOCOL, Request, Wait, encode
from chappe.errors import BrokerError, ChappeError

_MOST_WAITING: Final = 1_000  # requests of one client that wait for deliveries
_LARGEST_INFO: Final = 64 * 1024  # bytes that a client may say of itself

_hello: Final = msgspec.msgpack.Decoder(tuple[Hello]).decode
_receive: Final = msgspec.msgpack.Decoder(tuple[list[str], Annotated[int, msgspec.Meta(le=1_000_000)], Wait]).decode
_result: Final = msgspec.msgpack.Decoder(tuple[str, Wait]).decode
_archived: Final = msgspec.msgpack.Decoder(tuple[Number, Wait]).decode
_cancel: Final = msgspec.msgpack.Decoder(tuple[int]).decode


class Waits:
    """What clients wait for; `touched` are those that are answered in this turn."""

    def __init__(self, ledger: Ledger, records: Records, touched: set[Connection]) -> None:
        self._ledger = ledger
        self._dispatch = ledger.dispatch
        self._records = records
        self._touched = touched
        self._loop = asyncio.get_running_loop()
        self._waiters: dict[str, list[Callable[[Any], None]]] = collections.defaultdict(list)

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
            self._dispatch.suspects.open(session, [name for name in listed(hello.info.get("queues")) if isinstance(name, str)])
        kept = self._dispatch.adopt(session, hello.held)
        stored, refused = self._ledger.turn.stored_of(hello.name)
        session.serial = stored
        connection.refused = dict.fromkeys(refused, self._loop.time()) | connection.refused
        connection.answer(request.serial, {"kept": kept, "stored": stored, "refused": refused})

    def receive(self, connection: Connection, request: Request) -> None:
        """Have a client wait for deliveries."""
        names, limit, wait = _receive(request.arguments)
        queues = [self._ledger.turn.routes.queue(name) for name in names]
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
            self._dispatch.leave(receiver)
            connection.answer(serial, [])
            connection.flush()

        receiver = Receiver(connection.session, queues, limit, reply)
        connection.receiving[serial] = (receiver, self._loop.call_later(max(0.0, wait), expire))
        self._dispatch.receivers.append(receiver)

    def cancel(self, connection: Connection, request: Request) -> None:
        """Answer a waiting `receive` now."""
        (serial,) = _cancel(request.arguments)
        found = connection.receiving.get(serial)
        if found is not None and self._dispatch.leave(found[0]):
            self._dispatch.served.append((found[0], []))  # so that it waits on if this turn is undone
        connection.answer(request.serial, None)

    def await_result(self, connection: Connection, request: Request) -> None:
        """Answer when a tracked message ended, or after the wait."""
        message_id, wait = _result(request.arguments)
        state = self._records.state(message_id)
        if state["state"] in ENDED or wait <= 0:
            connection.answer(request.serial, state)
        else:
            self._wait(connection, request, message_id, wait, lambda: self._records.state(message_id))

    def await_archived(self, connection: Connection, request: Request) -> None:
        """Answer when something was archived behind a position, or after the wait."""
        after, wait = _archived(request.arguments)
        if archiving.end_of(self._ledger.turn.db) != after or wait <= 0:
            connection.answer(request.serial, True)
        else:
            self._wait(connection, request, ARCHIVED, wait, lambda: True)

    def _wait(self, connection: Connection, request: Request, key: str, wait: float, look: Callable[[], Any]) -> None:
        """Answer with what is seen when something of this key is finished, or after the wait."""

        def wake(_: Any) -> None:
            timer.cancel()
            connection.waiting.pop(request.serial, None)
            waiting = self._waiters.get(key)
            if waiting is not None and wake in waiting:
                waiting.remove(wake)
                if not waiting:
                    del self._waiters[key]
            if not connection.closed:
                try:
                    connection.answer(request.serial, look())
                except ChappeError as error:  # what is known of a message that ended is forgotten some day
                    connection.refuse(request.serial, error)
                connection.flush()

        timer = self._loop.call_later(wait, wake, None)
        self._waiters[key].append(wake)
        connection.waiting[request.serial] = wake

    def hand_over(self) -> None:
        """Give what was lent and what ended in this turn to those who waited for it."""
        for receiver, lent in self._dispatch.served:
            receiver.reply(lent)
        self._dispatch.served.clear()
        for message_id in self._ledger.turn.finished:
            for wake in self._waiters.pop(message_id, ()):
                wake(message_id)
        self._ledger.turn.finished.clear()

    def end(self, connection: Connection) -> None:
        """Leave nothing of the waits of a client that is gone."""
        for receiver, timer in connection.receiving.values():
            timer.cancel()
            self._dispatch.leave(receiver)
        for wake in list(connection.waiting.values()):
            wake(None)
