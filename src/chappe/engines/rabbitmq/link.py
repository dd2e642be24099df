"""One connection to RabbitMQ, from its opening to its end; it never heals, whoever owns it opens another.

Publications have a channel, and so have declarations, opened with the first of them and again after a refusal: RabbitMQ closes the
channel on which it refuses something, and that must not end what travels on others. Who is lent messages opens one more.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import re
import struct
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any, Final

from pika.exceptions import AMQPError
from pika.spec import Basic, Confirm, Connection, Exchange, Queue
from pika.spec import Channel as Channels

from chappe.engines.rabbitmq.address import Address
from chappe.engines.rabbitmq.channel import Channel
from chappe.engines.rabbitmq.confirms import Batch, Confirms, Outgoing
from chappe.engines.rabbitmq.frames import publication
from chappe.engines.rabbitmq.protocol import Heard, Protocol, text
from chappe.errors import BrokerError, BrokerUnavailable, NotFound, Rejected, TopologyConflict, Unconfirmed

log = logging.getLogger("chappe.rabbitmq")

_POLITE: Final = 1.0
_NO_EXCHANGE: Final = re.compile(r"no exchange '(.*)' in vhost ")
_REFUSALS: Final[dict[int, type[BrokerError]]] = {404: NotFound, 406: TopologyConflict}
_LEAVING: Final = "it is being closed"
_UNSAYABLE: Final = (AMQPError, AssertionError, TypeError, ValueError, struct.error)  # what pika raises before anything is sent
_MOST: Final = 131_072  # bytes of a frame
_CAPABILITIES: Final = ("authentication_failure_close", "basic.nack", "connection.blocked", "consumer_cancel_notify", "publisher_confirms")


class Link:
    """A connection to one of the hosts of an address; `ended` says why it is no more, and is for `asyncio.wait`, or to be shielded.

    Each verb with an answer ends within the deadline: with `BrokerUnavailable` if there was none, or with `Unconfirmed` where it
    may have been done. What is said to a link that has ended raises `BrokerUnavailable`.
    """

    def __init__(self, where: str, *, deadline: float) -> None:
        self.where = where
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.server_version = "of an unknown version"
        self.blocked: str | None = None
        self.is_doubtful = False  # 3.10.8 has a channel refuse for ever, or never confirm, what it sends to a leader that was lost
        self._reason: str | None = None  # beside `ended`, which whoever awaits it may cancel
        self._stopped: str | None = None  # why nothing may be said any more
        self._loop = asyncio.get_running_loop()
        self.deadline = deadline
        self._confirms = Confirms()
        self._declaring = asyncio.Lock()
        self._protocol = Protocol(self._hear, self._finish)
        self.lends = self._protocol.lends
        self._most = _MOST
        self._control = Channel(self, 0, lambda: None)  # what is said of the connection itself
        self.channel = Channel(self, 1, self._channel_ended)  # what is published
        self._channels = {0: self._control, 1: self.channel}
        self._declarer: Channel | None = None

    @classmethod
    async def open(cls, address: Address, *, name: str, deadline: float, until: float | None = None) -> Link:
        """Connect to the first host that answers; raises `BrokerUnavailable` with the cause at each. RabbitMQ shows `name`.

        This takes as long as the deadline of any verb, or `until` a time of the loop.
        """
        until = asyncio.get_running_loop().time() + deadline if until is None else until
        causes: list[str] = []
        for number, (host, port) in enumerate(address.hosts):
            share = (until - asyncio.get_running_loop().time()) / (len(address.hosts) - number)
            link = cls(f"{host}:{port}", deadline=deadline)
            bound = asyncio.timeout(share)
            try:
                async with bound:
                    await link._open(address, host, port, name)
                return link
            except (OSError, BrokerError) as error:
                why = link._reason or str(error) or repr(error)
                causes.append(f"{link.where}: {f'no answer within {share:.3g} s' if bound.expired() else why}")
                link.cut()
            except BaseException:
                link.cut()
                raise
        raise BrokerUnavailable(f"cannot connect to RabbitMQ: {'; '.join(causes)}")

    async def _open(self, address: Address, host: str, port: int, name: str) -> None:
        context = await asyncio.to_thread(address.context) if address.tls else None
        start: asyncio.Future[Any] = self._loop.create_future()
        self._control.waiting.append(start)
        await self._loop.create_connection(lambda: self._protocol, host, port, ssl=context)
        told: Any = (await start).server_properties or {}
        self.server_version = text(told.get("version", self.server_version))
        about: dict[str, Any] = {
            "connection_name": name,
            "product": "chappe",
            "version": version("chappe"),
            "capabilities": dict.fromkeys(_CAPABILITIES, True),
        }
        entrance = f"\0{address.user}\0{address.password}"
        tune = await self._control.ask(Connection.StartOk(client_properties=about, response=entrance))
        self._most = min(_MOST, tune.frame_max or _MOST)
        self._control.say(Connection.TuneOk(tune.channel_max, self._most, address.heartbeat))
        await self._control.ask(Connection.Open(virtual_host=address.vhost))
        if address.heartbeat:
            self._protocol.watch(address.heartbeat)
        await self.channel.ask(Channels.Open())
        await self.channel.ask(Confirm.Select())
        self._protocol.on_confirmed = self._confirmed

    async def lending(self, on_end: Callable[[], None]) -> Channel:
        """Return a channel of its own for what is lent; `on_end` is called when it ends, with the link or before."""
        async with self.bounded("open a channel"):
            return await self._open_channel(on_end)

    # --- what is declared

    async def exchange(self, name: str, kind: str, *, durable: bool = True, **how: Any) -> None:
        """Make an exchange exist, or only look (`passive`). Raises `TopologyConflict` if it is another, `NotFound` if it is missing."""
        await self._declare(f'declare the exchange "{name}"', Exchange.Declare(exchange=name, type=kind, durable=durable, **how))

    async def queue(self, name: str, *, durable: bool = True, **how: Any) -> tuple[str, int, int]:
        """Make a queue exist, or only look (`passive`), and return its name, the messages that are ready and its consumers.

        Raises `TopologyConflict` if it is another, `NotFound` if it is missing.
        """
        declared = await self._declare(f'declare the queue "{name}"', Queue.Declare(queue=name, durable=durable, **how))
        return declared.queue, declared.message_count, declared.consumer_count

    async def bind(self, queue: str, exchange: str, key: str, arguments: dict[str, Any] | None = None) -> None:
        """Have a queue receive what an exchange routes to it by this key; raises `NotFound`."""
        method = Queue.Bind(queue=queue, exchange=exchange, routing_key=key, arguments=arguments)
        await self._declare(f'bind the queue "{queue}" to "{exchange}"', method)

    async def delete(self, queue: str) -> int:
        """Delete a queue, and return how many messages went with it; none if there is no such queue."""
        return (await self._declare(f'delete the queue "{queue}"', Queue.Delete(queue=queue), harmless=False)).message_count

    async def purge(self, queue: str) -> int:
        """Delete the messages of a queue that are ready, and return how many; raises `NotFound`."""
        return (await self._declare(f'purge the queue "{queue}"', Queue.Purge(queue=queue), harmless=False)).message_count

    # --- what is published

    @property
    def heard(self) -> int:
        """How many bytes came so far."""
        return self._protocol.received

    def publish(self, messages: Sequence[Outgoing], within: float | None = None) -> asyncio.Future[list[Exception | None]]:
        """Send messages; the future tells what became of each when RabbitMQ has confirmed all, or after the deadline.

        That is nothing, or `Unroutable`, another `Rejected`, `NotFound` (no such exchange: this also ends the link), or `Unconfirmed`.
        """
        batch = Batch(messages, self.deadline if within is None else within)
        for number, (exchange, routing_key, body, properties) in enumerate(messages):
            try:
                self.check()
                frames = publication(self.channel.number, exchange, routing_key, body, properties, self._most)
            except BrokerUnavailable as error:
                batch.tell(number, error)
                continue
            except Exception as error:  # it could not be encoded, and nothing of it was sent
                batch.tell(number, Rejected(f"the message cannot be sent by AMQP: {error!r}"))
                continue
            self._protocol.emit(frames)
            self._confirms.add(batch, number)
        return batch.answered

    def flush(self) -> None:
        """Send what was published, now and not in the loop's next turn."""
        self._protocol.flush()

    # --- its end

    def check(self) -> None:
        """Raise `BrokerUnavailable` if nothing may be said any more."""
        if self._stopped is not None:
            raise BrokerUnavailable(f"the connection to RabbitMQ at {self.where} has ended: {self._stopped}")

    async def close(self) -> None:
        """Say goodbye, within a second; never raises."""
        self._leave()
        try:
            await asyncio.wait([self._protocol.gone], timeout=_POLITE)
        finally:
            self.cut()
        await asyncio.wait([self._protocol.gone], timeout=_POLITE)

    def cut(self) -> None:
        """Close the socket without a word, as if this process had been killed."""
        self._finish("it was cut here")
        self._protocol.abort("it was cut here")

    def _leave(self) -> None:
        """Say goodbye, and hang up when RabbitMQ has, or after a while."""
        if self._protocol.gone.done() or self._stopped == _LEAVING:
            return
        self._stopped = _LEAVING
        self._protocol.say(0, Connection.Close(200, "goodbye", 0, 0))
        late = self._loop.call_later(_POLITE, self.cut)
        self._protocol.gone.add_done_callback(lambda _: late.cancel())

    def _finish(self, reason: str) -> None:
        if self._reason is not None:
            return
        self._reason = self._stopped = reason
        if not self.ended.done():
            self.ended.set_result(reason)
        for channel in list(self._channels.values()):
            channel.end(BrokerUnavailable(f"the connection to RabbitMQ at {self.where} has ended: {reason}"))
        missing = _NO_EXCHANGE.search(reason)
        self._confirms.fail(lambda exchange: self._lost(exchange, reason, None if missing is None else missing[1]))

    def _lost(self, exchange: str, reason: str, missing: str | None) -> BrokerError:
        if exchange == missing:
            return NotFound(reason)
        return Unconfirmed(f"the connection to RabbitMQ at {self.where} has ended: {reason}; the message may be stored or not")

    # --- questions and answers

    def say(self, channel: int, method: Any) -> None:
        """Send a method, behind all that was said before. Raises `BrokerUnavailable`, or what pika raises for what it cannot encode."""
        self.check()
        self._protocol.say(channel, method)

    @asynccontextmanager
    async def bounded(self, what: str) -> AsyncGenerator[list[str]]:
        """Bound what is asked in time; what may have been done without an answer is to be put into the list that this gives."""
        self.check()
        said: list[str] = []
        try:
            async with asyncio.timeout(self.deadline):
                yield said
            return
        except TimeoutError:
            why = f"RabbitMQ at {self.where} did not {what} within {self.deadline:g} s"
        except BrokerUnavailable as error:
            why = str(error)
        except _UNSAYABLE as error:
            raise BrokerError(f"RabbitMQ cannot be asked to {what}: {error!r}") from None
        raise Unconfirmed(f"{why}; it may be done or not") if said else BrokerUnavailable(why)

    async def _declare(self, what: str, method: Any, *, harmless: bool = True) -> Any:
        async with self.bounded(what) as said, self._declaring:
            channel = self._declarer
            if channel is None or not channel.is_open or channel.waiting:  # a refusal that comes late is not for who asks now
                channel = self._declarer = await self._open_channel(lambda: None)
            if not harmless:
                said.append(what)
            return await channel.ask(method)

    async def _open_channel(self, on_end: Callable[[], None]) -> Channel:
        number = next(number for number in itertools.count(1) if number not in self._channels)
        channel = self._channels[number] = Channel(self, number, on_end)
        await channel.ask(Channels.Open())
        return channel

    # --- what RabbitMQ says

    def _hear(self, heard: Heard) -> None:
        number, method, properties, body = heard
        channel = self._channels.get(number)
        if channel is None:
            return
        match method:
            case Channels.Close():
                self._protocol.say(number, Channels.CloseOk())
                del self._channels[number]
                channel.end(_REFUSALS.get(method.reply_code, BrokerError)(_reason(method)))
            case Connection.Close():
                self._finish(_reason(method))
                self._protocol.say(0, Connection.CloseOk())
                self._protocol.end()
            case Connection.CloseOk():
                self._finish("it was closed here")
                self._protocol.end()
            case Connection.Blocked():
                self.blocked = method.reason
                log.warning("RabbitMQ at %s takes no messages now: %s", self.where, method.reason)
            case Connection.Unblocked():
                self.blocked = None
                log.warning("RabbitMQ at %s takes messages again", self.where)
            case Basic.Nack():
                self.is_doubtful = True
                self._confirms.settle(method.delivery_tag, multiple=method.multiple, stored=False)
            case Basic.Return():
                sent = text(method.exchange), text(method.routing_key), body, b"".join(properties.encode())
                if not self._confirms.give_back(method.reply_text, *sent):
                    log.error("RabbitMQ at %s returned a message that nobody waits for", self.where)
            case Basic.Cancel():
                channel.cancelled(method.consumer_tag)
            case Basic.Deliver():  # to one that was given up while it was made
                channel.nack(method.delivery_tag)
            case _:
                channel.answered(method)

    def _channel_ended(self) -> None:
        if self._reason is None:
            self._finish(self.channel.reason)
            self._leave()

    def _confirmed(self, tag: int, multiple: bool) -> None:
        self._confirms.settle(tag, multiple=multiple, stored=True)


def _reason(method: Channels.Close | Connection.Close) -> str:
    return f"{text(method.reply_text)} ({method.reply_code})"
