"""ZeroMQ's doors of an application: who asks is answered, what is pushed is taken, and events are published.

::

    Doors(app, requests="ipc:///run/auctions/requests", pushes="ipc:///run/auctions/pushes", events="ipc:///run/auctions/events")

They open in the scheduler process. A command is said as over a WebSocket, `{"command": "raise.bid", "body": {…}}`, and answered with the
same status and the same body as `POST /commands/raise.bid`.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final

import msgspec
import zmq
import zmq.asyncio
from zmq.auth.asyncio import AsyncioAuthenticator

from chappe.app import App
from chappe.archive.follow import Following
from chappe.bus.draft import new_id
from chappe.engines.contract.archive import Archive
from chappe.errors import DefinitionError, InvalidSettings
from chappe.failures import summarize
from chappe.roles import ROLES, Caller
from chappe.settings import is_loopback
from chappe.web.access import CALLER
from chappe.web.asked import Asked, answered
from chappe.web.commands import Commands
from chappe.web.telling import said_of

log = logging.getLogger("chappe.zeromq")

USER: Final = "chappe"  # who has the token, in ZeroMQ's PLAIN mechanism
_MOST_AT_ONCE: Final = 64  # requests: more are read when one of them is answered
_AROUND: Final = 16 * 1024  # bytes of a message beside the body of its command
_AGAIN: Final = 0.5  # seconds until a pushed command is said again that cannot be stored now
_SCOPE: Final = {CALLER: Caller("zeromq", ROLES["sender"])}
_decode: Final = msgspec.json.Decoder(Asked).decode


class Doors:
    """Where programs that speak ZeroMQ reach an application."""

    def __init__(
        self,
        app: App,
        *,
        requests: str | None = None,
        pushes: str | None = None,
        events: str | None = None,
        pattern: str = "#",
        beyond_loopback: bool = False,
    ) -> None:
        """Open these addresses when the scheduler starts: for REQ, for PUSH, and for SUB sockets; events are those that fit a pattern.

        An address is `ipc://` with the path of a socket, which only this user may open, or `tcp://` on loopback, for which clients send
        the gateway's `token` as the password of `chappe` (PLAIN). `beyond_loopback` permits other interfaces, where the token goes in
        the clear.
        """
        for address in filter(None, (requests, pushes, events)):
            _refuse(address, beyond_loopback=beyond_loopback)
        self._app = app
        self._addresses = requests, pushes, events
        self._pattern = pattern
        self._post = Commands(app).post
        app.sources.append(self.run)

    async def run(self) -> None:
        """Serve until cancelled. Raises `InvalidSettings` for TCP without a token."""
        context = zmq.asyncio.Context()
        guard: AsyncioAuthenticator | None = None
        serves = ((zmq.ROUTER, self._answer_all), (zmq.PULL, self._take_all), (zmq.PUB, self._publish_all))
        try:
            guard = self._guarded(context)
            async with asyncio.TaskGroup() as doors:
                for address, (kind, serve) in zip(self._addresses, serves, strict=True):
                    if address is not None:
                        doors.create_task(_serve(serve, self._bound(context, kind, address)))
        finally:
            if guard is not None:
                guard.stop()
            context.destroy(linger=0)

    def _guarded(self, context: zmq.asyncio.Context) -> AsyncioAuthenticator | None:
        if not any(address is not None and address.startswith("tcp:") for address in self._addresses):
            return None
        token = self._app.settings.token
        if not token:
            raise InvalidSettings(
                "ZeroMQ over TCP needs a token, for any user of this machine could connect; set CHAPPE_TOKEN, or use ipc://"
            )
        guard = AsyncioAuthenticator(context)
        guard.start()
        guard.configure_plain(domain="*", passwords={USER: token})
        return guard

    def _bound(self, context: zmq.asyncio.Context, kind: int, address: str) -> Any:
        socket: Any = context.socket(kind)
        socket.maxmsgsize = self._app.settings.max_body + _AROUND
        socket.plain_server = address.startswith("tcp:")
        socket.bind(address)
        if address.startswith("ipc:"):
            Path(address.removeprefix("ipc://")).chmod(0o600)
        return socket

    async def _answer_all(self, socket: Any) -> None:
        answering: set[asyncio.Task[None]] = set()

        async def answer(parts: list[bytes]) -> None:
            _, text = await answered(parts[-1], self._post, _SCOPE)
            await socket.send_multipart([*parts[:-1], text])

        while True:
            if len(answering) >= _MOST_AT_ONCE:
                await asyncio.wait(answering, return_when=asyncio.FIRST_COMPLETED)
            task = asyncio.ensure_future(_kept(answer, await socket.recv_multipart()))
            answering.add(task)
            task.add_done_callback(answering.discard)

    async def _take_all(self, socket: Any) -> None:
        """Take one after the other: each pusher's are in order, and those that cannot be stored now hold up those behind them."""

        async def take(parts: list[bytes]) -> None:
            said = _known_again(parts[-1])
            while True:
                status, text = await answered(said, self._post, _SCOPE)
                if status not in (429, 503):
                    break
                await asyncio.sleep(_AGAIN)
            if status >= 400:
                log.warning("a command that was pushed is not taken: %s", text.decode())

        while True:
            await _kept(take, await socket.recv_multipart())

    async def _publish_all(self, socket: Any) -> None:
        async def archive() -> Archive:
            return (await self._app.connection()).store

        async for _, page in Following(archive, self._pattern).pages():
            for record in page.records:
                await socket.send_multipart([record.routing_key.encode(), said_of(record).text])


async def _serve(serve: Callable[[Any], Coroutine[Any, Any, None]], socket: Any) -> None:
    with socket:
        await serve(socket)


async def _kept(serve: Callable[[list[bytes]], Coroutine[Any, Any, None]], parts: list[bytes]) -> None:
    """Serve one message; whatever it does, the next is served too."""
    try:
        await serve(parts)
    except Exception as error:
        log.error("a message over ZeroMQ cannot be served: %s", summarize(error), exc_info=error)


def _known_again(said: bytes) -> bytes:
    """Return a command with an idempotency key: it may be said again after an answer that was lost."""
    try:
        asked = _decode(said)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return said  # the answer says why
    return said if asked.key is not None else msgspec.json.encode(msgspec.structs.replace(asked, key=new_id()))


def _refuse(address: str, *, beyond_loopback: bool) -> None:
    if re.fullmatch(r"ipc:///[^\0]{1,100}", address):
        return
    found = re.fullmatch(r"tcp://(\[[0-9a-fA-F:]+\]|[^:/\s]+):(\d{1,5}|\*)", address)
    if found is None:
        raise DefinitionError(f"{address!r} is no address; write ipc:///run/shop/requests, or tcp://127.0.0.1:7071")
    if not is_loopback(found[1]) and not beyond_loopback:
        raise DefinitionError(f"{address} can be reached from other machines; bind to 127.0.0.1, or say beyond_loopback=True")
