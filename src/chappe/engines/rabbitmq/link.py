"""One connection to RabbitMQ, from its opening to its end; it never heals, whoever owns it opens another.

Publications and consumers share one channel. Declarations have a second one, opened with the first of them and again after a
refusal: RabbitMQ closes the channel on which it refuses something, and that must not end what travels on the other.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import version
from typing import Any, Final
from uuid import uuid4

from msgspec import Struct
from pika import BasicProperties, ConnectionParameters, PlainCredentials
from pika.channel import Channel
from pika.exceptions import AMQPError, ChannelClosedByBroker, ConnectionClosedByBroker, ConnectionClosedByClient
from pika.spec import Basic

from chappe.engines.rabbitmq.address import Address
from chappe.engines.rabbitmq.confirms import Batch, Confirms, Outgoing
from chappe.engines.rabbitmq.frames import publication
from chappe.engines.rabbitmq.protocol import Protocol
from chappe.engines.rabbitmq.questions import Answer, Questions
from chappe.engines.rabbitmq.reading import Message
from chappe.errors import BrokerError, BrokerUnavailable, NotFound, Rejected, Unconfirmed

log = logging.getLogger("chappe.rabbitmq")

_POLITE: Final = 1.0
_NO_EXCHANGE: Final = re.compile(r"no exchange '(.*)' in vhost ")


class _Consumer(Struct, frozen=True):
    queue: str
    on_message: Callable[[Message], None]
    on_cancelled: Callable[[], None]

    def deliver(self, _: Channel, method: Basic.Deliver, properties: BasicProperties, body: bytes) -> None:
        """Take what pika has read."""
        tag, again = method.delivery_tag, method.redelivered
        self.lend(Message(tag, again, _text(method.exchange), _text(method.routing_key), properties, body))

    def lend(self, message: Message) -> None:
        """Return a message on."""
        try:
            self.on_message(message)
        except Exception:  # it is the caller's; the frames behind it must be read all the same
            log.exception('a message of the queue "%s" was not taken', self.queue)


class Link:
    """A connection to one of the hosts of an address; `ended` says why it is no more, and is for `asyncio.wait`, or to be shielded.

    Each verb with an answer ends within the deadline: with `BrokerUnavailable` if there was none, or with `Unconfirmed` where it
    may have been done. What is said to a link that has ended raises `BrokerUnavailable`.
    """

    def __init__(self, address: Address, host: str, port: int, *, name: str, deadline: float) -> None:
        self.where = f"{host}:{port}"
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._reason: str | None = None  # beside `ended`, which whoever awaits it may cancel
        self.blocked: str | None = None
        self.is_doubtful = False  # 3.10.8 has a channel refuse for ever, or never confirm, what it sends to a leader that was lost
        self.on_blocked: Callable[[str | None], None] = lambda _: None
        self._loop = asyncio.get_running_loop()
        self._questions = Questions(self.where, deadline)
        self._deadline = deadline
        self._confirms = Confirms()
        self._closing = False
        self._consumers: dict[str, _Consumer] = {}
        self._asking = asyncio.Lock()
        self._declaring = asyncio.Lock()
        self._declarer: Channel | None = None
        self._opened: asyncio.Future[None] = self._loop.create_future()
        self._channel: Channel
        parameters = ConnectionParameters(
            host,
            port,
            address.vhost,
            PlainCredentials(address.user, address.password),
            heartbeat=address.heartbeat,
            client_properties={"connection_name": name, "product": "chappe", "version": version("chappe")},
        )
        self._protocol = Protocol(parameters, self._connection_opened, self._connection_ended)
        self._protocol.add_on_connection_blocked_callback(lambda _, frame: self._told_blocked(frame.method.reason))
        self._protocol.add_on_connection_unblocked_callback(lambda _, __: self._told_blocked(None))

    @classmethod
    async def open(cls, address: Address, *, name: str, deadline: float, until: float | None = None) -> Link:
        """Connect to the first host that answers; raises `BrokerUnavailable` with the cause at each. RabbitMQ shows `name`.

        This takes as long as the deadline of any verb, or `until` a time of the loop.
        """
        until = asyncio.get_running_loop().time() + deadline if until is None else until
        causes: list[str] = []
        for number, (host, port) in enumerate(address.hosts):
            share = (until - asyncio.get_running_loop().time()) / (len(address.hosts) - number)
            link = cls(address, host, port, name=name, deadline=deadline)
            bound = asyncio.timeout(share)
            try:
                async with bound:
                    await link._open(address, host, port)
                return link
            except (OSError, BrokerError) as error:
                why = link._reason or str(error) or repr(error)
                causes.append(f"{link.where}: {f'no answer within {share:.3g} s' if bound.expired() else why}")
                link.cut()
            except BaseException:
                link.cut()
                raise
        raise BrokerUnavailable(f"cannot connect to RabbitMQ: {'; '.join(causes)}")

    async def _open(self, address: Address, host: str, port: int) -> None:
        context = await asyncio.to_thread(address.context) if address.tls else None
        await self._loop.create_connection(lambda: self._protocol, host, port, ssl=context)
        await self._opened
        self._channel = await self._open_channel()
        self._channel.add_on_cancel_callback(self._consumer_cancelled)  # pyright: ignore[reportUnknownMemberType] - the stubs do not know the callback
        self._channel.add_on_return_callback(self._returned)  # pyright: ignore[reportUnknownMemberType] - the stubs do not know the callback
        await self._ask("turn confirms on", lambda answer: self._channel.confirm_delivery(self._refused, answer))
        self._protocol.on_confirmed = self._confirmed

    # --- what is declared

    async def exchange(
        self,
        name: str,
        kind: str,
        *,
        durable: bool = True,
        auto_delete: bool = False,
        passive: bool = False,
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        """Make an exchange exist, or only look (`passive`). Raises `TopologyConflict` if it is another, `NotFound` if it is missing."""
        await self._declare(
            f'declare the exchange "{name}"',
            lambda channel, answer: channel.exchange_declare(
                name, kind, passive, durable, auto_delete, False, _plain(arguments), callback=answer
            ),
        )

    async def queue(
        self,
        name: str,
        *,
        durable: bool = True,
        exclusive: bool = False,
        auto_delete: bool = False,
        passive: bool = False,
        arguments: Mapping[str, Any] | None = None,
    ) -> tuple[str, int, int]:
        """Make a queue exist, or only look (`passive`), and return its name, the messages that are ready and its consumers.

        Raises `TopologyConflict` if it is another, `NotFound` if it is missing.
        """
        declared = await self._declare(
            f'declare the queue "{name}"',
            lambda channel, answer: channel.queue_declare(
                name, passive, durable, exclusive, auto_delete, _plain(arguments), callback=answer
            ),
        )
        return declared.queue, declared.message_count, declared.consumer_count

    async def bind(self, queue: str, exchange: str, key: str, arguments: Mapping[str, Any] | None = None) -> None:
        """Have a queue receive what an exchange routes to it by this key; raises `NotFound`."""
        await self._declare(
            f'bind the queue "{queue}" to "{exchange}"',
            lambda channel, answer: channel.queue_bind(queue, exchange, key, _plain(arguments), answer),
        )

    async def delete(self, queue: str) -> int:
        """Delete a queue, and return how many messages went with it; none if there is no such queue."""
        deleted = await self._declare(
            f'delete the queue "{queue}"', lambda channel, answer: channel.queue_delete(queue, callback=answer), harmless=False
        )
        return deleted.message_count

    async def purge(self, queue: str) -> int:
        """Delete the messages of a queue that are ready, and return how many; raises `NotFound`."""
        purged = await self._declare(
            f'purge the queue "{queue}"', lambda channel, answer: channel.queue_purge(queue, answer), harmless=False
        )
        return purged.message_count

    # --- what travels

    @property
    def server_version(self) -> str:
        """The version of the server that answered."""
        told: Any = self._protocol.server_properties or {}
        return _text(told.get("version", "of an unknown version"))

    @property
    def heard(self) -> int:
        """How many bytes came so far."""
        return self._protocol.bytes_received

    @property
    def unconfirmed(self) -> int:
        """How many publications RabbitMQ has not answered; nothing here bounds them."""
        return len(self._confirms)

    def publish(self, messages: Sequence[Outgoing], within: float | None = None) -> asyncio.Future[list[Exception | None]]:
        """Send messages; the future tells what became of each when RabbitMQ has confirmed all, or after the deadline.

        That is nothing, or `Unroutable`, another `Rejected`, `NotFound` (no such exchange: this also ends the link), or `Unconfirmed`.
        """
        batch = Batch(messages, self._deadline if within is None else within)
        channel, most = self._channel.channel_number, self._protocol.params.frame_max
        for number, (exchange, routing_key, body, properties) in enumerate(messages):
            try:
                self._questions.check()
                frames = publication(channel, exchange, routing_key, body, b"".join(properties.encode()), most)
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

    async def consume(
        self,
        queue: str,
        on_message: Callable[[Message], None],
        *,
        prefetch: int,
        exclusive: bool = False,
        arguments: Mapping[str, Any] | None = None,
        on_cancelled: Callable[[], None],
    ) -> str:
        """Have messages lent to a callback, maybe before this returns, and return the consumer's tag; raises `NotFound`.

        `on_cancelled` is called when RabbitMQ ends the consumer, as when the queue is deleted; nothing is called when the link ends.
        Another refusal, as of `exclusive`, ends the link.
        """
        await self.queue(queue, passive=True)  # asked on this channel for a missing one, RabbitMQ would close it
        channel, consumer = self._channel, _Consumer(queue, on_message, on_cancelled)
        tag = f"chappe-{uuid4().hex}"
        try:
            async with self._questions.bounded(f'consume "{queue}"'), self._asking:
                await self._questions.answer(lambda answer: channel.basic_qos(prefetch_count=prefetch, callback=answer), channel)
                self._consumers[tag] = consumer
                self._protocol.lends[tag] = consumer.lend
                await self._questions.answer(
                    lambda answer: channel.basic_consume(
                        queue, consumer.deliver, exclusive=exclusive, consumer_tag=tag, arguments=_plain(arguments), callback=answer
                    ),
                    channel,
                )
        except BaseException:
            self._protocol.lends.pop(tag, None)
            if self._consumers.pop(tag, None) is not None and channel.is_open:
                channel.basic_cancel(tag)  # nobody knows of it
            raise
        return tag

    async def cancel(self, tag: str) -> None:
        """End a consumer; messages that are on their way are still lent to it before this returns, and all can still be settled."""
        if self._consumers.pop(tag, None) is not None:
            await self._ask(f'cancel the consumer "{tag}"', lambda answer: self._channel.basic_cancel(tag, answer))
            self._protocol.lends.pop(tag, None)

    def ack(self, tag: int, *, multiple: bool = False) -> None:
        """Say that a message is done, or all up to it; a tag that is not out ends the link."""
        self._questions.check()
        self._channel.basic_ack(tag, multiple)

    def nack(self, tag: int, *, multiple: bool = False, requeue: bool = True) -> None:
        """Return a message back, or all up to it, or have them dead-lettered; a tag that is not out ends the link."""
        self._questions.check()
        self._channel.basic_nack(tag, multiple, requeue)

    async def sync(self) -> None:
        """Return when RabbitMQ's channel has processed all that was said here before: publications, acks and nacks."""
        # The prefetch is that of the next consumer, and each says its own: of what is answered, nothing does less.
        await self._ask("sync", lambda answer: self._channel.basic_qos(prefetch_count=1, callback=answer))

    # --- its end

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
        self._protocol.abort(ConnectionAbortedError("it was cut here"))

    def _leave(self) -> None:
        if self._closing:
            return
        self._closing = True
        if self._reason is None:
            self._questions.stop("it is being closed")
        if self._protocol.is_open:
            with suppress(AMQPError):
                self._protocol.close()
            late = self._loop.call_later(_POLITE, self.cut)
            self._protocol.gone.add_done_callback(lambda _: late.cancel())

    def _finish(self, reason: str) -> None:
        if self._reason is not None:
            return
        self._reason = reason
        if not self.ended.done():
            self.ended.set_result(reason)
        self._questions.fail(reason)
        if not self._opened.done():
            self._opened.set_exception(BrokerUnavailable(reason))
            self._opened.exception()  # where it is not awaited, there is another error
        missing = _NO_EXCHANGE.search(reason)
        self._confirms.fail(lambda exchange: self._lost(exchange, reason, None if missing is None else missing[1]))
        self._consumers.clear()

    def _lost(self, exchange: str, reason: str, missing: str | None) -> BrokerError:
        if exchange == missing:
            return NotFound(reason)
        return Unconfirmed(f"the connection to RabbitMQ at {self.where} has ended: {reason}; the message may be stored or not")

    # --- questions and answers

    async def _ask(self, what: str, say: Callable[[Answer], object]) -> None:
        async with self._questions.bounded(what), self._asking:
            await self._questions.answer(say, self._channel)

    async def _declare(self, what: str, say: Callable[[Channel, Answer], object], *, harmless: bool = True) -> Any:
        async with self._questions.bounded(what) as question, self._declaring:
            if self._declarer is None or not self._declarer.is_open:
                self._declarer = await self._open_channel()
            channel = self._declarer
            question.harmless = harmless
            try:
                return (await self._questions.answer(lambda answer: say(channel, answer), channel)).method
            except BaseException:
                self._declarer = None  # what is answered there later is not for the next who asks
                self._drop(channel)
                raise

    async def _open_channel(self) -> Channel:
        opening: list[Channel] = []

        def say(answer: Answer) -> None:
            opening.append(self._protocol.channel(on_open_callback=answer))
            opening[0].add_on_close_callback(self._channel_closed)  # pyright: ignore[reportUnknownMemberType] - the stubs do not know the callback

        try:
            return await self._questions.answer(say)
        except BaseException:
            for channel in opening:
                self._drop(channel)
            raise

    def _drop(self, channel: Channel) -> None:
        if self._protocol.is_open and (channel.is_open or channel.is_opening):
            channel.close()

    # --- what RabbitMQ says unasked

    def _connection_opened(self) -> None:
        if not self._opened.done():
            self._opened.set_result(None)

    def _connection_ended(self, error: Exception) -> None:
        self._finish(_reason(error))

    def _channel_closed(self, channel: Channel, error: Exception) -> None:
        if not isinstance(error, ChannelClosedByBroker):
            return  # it ends with its connection, or was dropped here
        self._questions.refuse(channel, error)
        if channel is self._channel:
            self._finish(_reason(error))
            self._loop.call_soon(self._leave)

    def _told_blocked(self, reason: str | None) -> None:
        self.blocked = reason
        try:
            self.on_blocked(reason)
        except Exception:  # it is the caller's, see `_Consumer.deliver`
            log.exception("nobody took that RabbitMQ at %s says: blocked = %s", self.where, reason)

    def _confirmed(self, tag: int, multiple: bool) -> None:
        self._confirms.settle(tag, multiple=multiple, stored=True)

    def _refused(self, frame: Any) -> None:
        method: Basic.Ack | Basic.Nack = frame.method
        self.is_doubtful = self.is_doubtful or isinstance(method, Basic.Nack)
        self._confirms.settle(method.delivery_tag, multiple=method.multiple, stored=isinstance(method, Basic.Ack))

    def _returned(self, _: Channel, method: Basic.Return, properties: BasicProperties, body: bytes) -> None:
        if not self._confirms.give_back(str(method.reply_text), _text(method.exchange), _text(method.routing_key), body, properties):
            log.error("RabbitMQ at %s returned a message that nobody waits for", self.where)

    def _consumer_cancelled(self, frame: Any) -> None:
        consumer = self._consumers.pop(frame.method.consumer_tag, None)
        self._protocol.lends.pop(frame.method.consumer_tag, None)
        if consumer is None:
            return
        try:
            consumer.on_cancelled()
        except Exception:  # it is the caller's, see `_Consumer.deliver`
            log.exception('nobody took that the consumer of "%s" was cancelled', consumer.queue)


def _reason(error: Exception) -> str:
    if isinstance(error, ConnectionClosedByClient):
        return "it was closed here"
    if isinstance(error, ConnectionClosedByBroker | ChannelClosedByBroker):
        return f"{error.reply_text} ({error.reply_code})"
    return str(error) or repr(error)


def _text(value: str | bytes) -> str:
    """pika gives what is no UTF-8 as bytes; names that foreign clients chose may be so."""
    return value if isinstance(value, str) else value.decode(errors="replace")


def _plain(arguments: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return None if arguments is None else dict(arguments)
