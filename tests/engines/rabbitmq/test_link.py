"""A link keeps its word to the end, whatever happens to RabbitMQ; on a real node, with real signals."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import struct
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from uuid import uuid4

import psutil
import pytest
from pika import BasicProperties

from chappe.engines.rabbitmq.address import Address
from chappe.engines.rabbitmq.link import Link
from chappe.engines.rabbitmq.protocol import UNREADABLE
from chappe.engines.rabbitmq.reading import Message
from chappe.errors import BrokerError, BrokerUnavailable, NotFound, TopologyConflict, Unconfirmed, Unroutable
from tests.servers.ports import free_ports
from tests.servers.rabbitmq import RabbitNode
from tests.waiting import PATIENCE, auntil, until

from .conftest import Opens
from .publishing import publish

KEPT = BasicProperties(delivery_mode=2)


def never() -> None:
    raise AssertionError("nobody cancelled it")


async def outcomes(futures: list[asyncio.Future[None]]) -> list[str]:
    return [type(result).__name__ if result else "stored" for result in await asyncio.gather(*futures, return_exceptions=True)]


async def fill(link: Link, queue: str, *texts: str) -> None:
    await asyncio.gather(*(publish(link, "", queue, text.encode(), KEPT) for text in texts))


async def take(link: Link, queue: str, count: int, *, prefetch: int = 100) -> list[Message]:
    came: list[Message] = []
    await link.channel.consume(queue, came.append, prefetch=prefetch, on_cancelled=never)
    await auntil(lambda: len(came) >= count, f"{count} messages")
    return came


async def lent(link: Link, queue: str, on_message: Callable[[Message], None]) -> None:
    """Consume over a channel of its own, as those do who receive."""
    await (await link.lending(lambda: None)).consume(queue, on_message, prefetch=1, on_cancelled=never)


async def holds(link: Link, queue: str, ready: int) -> None:
    """Wait until so many messages are ready: a quorum queue hears of acks and of lost consumers a moment later."""

    async def looks() -> bool:
        return (await link.queue(queue, passive=True))[1] == ready

    await auntil(looks, f"{ready} messages to be ready")


@contextlib.contextmanager
def frozen(node: RabbitNode) -> Iterator[None]:
    os.kill(node.pid, signal.SIGSTOP)
    threads = Path(f"/proc/{node.pid}/task").glob("*/stat")
    until(lambda: all(thread.read_text().rpartition(")")[2].split()[0] == "T" for thread in threads), "all threads to stand still")
    try:
        yield
    finally:
        os.kill(node.pid, signal.SIGCONT)


@contextlib.contextmanager
def killed(node: RabbitNode) -> Iterator[None]:
    node.kill()
    try:
        yield
    finally:
        node.start()


@contextlib.asynccontextmanager
async def listener(answer: bytes = b"") -> AsyncIterator[tuple[str, list[asyncio.StreamReader]]]:
    """A server that answers anything with the same bytes, and what it heard."""
    heard: list[asyncio.StreamReader] = []
    release = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(reader)
        writer.write(answer)
        await release.wait()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"amqp://127.0.0.1:{server.sockets[0].getsockname()[1]}/", heard
        release.set()
        await asyncio.sleep(0.01)


def sockets() -> list[object]:
    return [c for c in psutil.Process().net_connections("tcp") if c.status == psutil.CONN_ESTABLISHED]


# --- opening


async def test_rabbitmq_shows_a_link_by_its_name(node: RabbitNode, link: Link) -> None:
    shown = await asyncio.to_thread(node.control, "list_connections", "client_properties")
    assert '"connection_name","test"' in shown
    assert '"product","chappe"' in shown


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("amqp://guest:wrong@127.0.0.1:{port}/", r"127\.0\.0\.1:\d+: ACCESS_REFUSED"),
        ("amqp://127.0.0.1:{port}/nowhere", r"127\.0\.0\.1:\d+: NOT_ALLOWED - vhost nowhere not found"),
        ("amqp://127.0.0.1:{free}/", r"127\.0\.0\.1:\d+: .*Connect call failed"),
        ("amqp://nobody.invalid/", r"nobody\.invalid:5672: .*not known"),
        ("amqps://127.0.0.1:{port}/", r"127\.0\.0\.1:\d+: .+"),
    ],
)
async def test_a_link_that_cannot_be_opened_says_where_and_why(node: RabbitNode, url: str, said: str) -> None:
    with pytest.raises(BrokerUnavailable, match=said):
        await Link.open(Address.parse(url.format(port=node.port, free=free_ports(1)[0])), name="test", deadline=60.0)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"", "no answer within 0.3 s"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "."),
        (b"\x01\x00\x00\x00\x00\x00\x01no", "Invalid FRAME_END marker"),
    ],
)
async def test_a_server_that_is_no_broker_is_given_up_within_the_deadline_and_its_socket_closed(answer: bytes, said: str) -> None:
    async with listener(answer) as (url, heard):
        with pytest.raises(BrokerUnavailable, match=rf"127\.0\.0\.1:\d+: {said}"):
            await Link.open(Address.parse(url), name="test", deadline=60.0 if "FRAME_END" in said else 0.3)
        await asyncio.wait_for(heard[0].read(), 60)


@pytest.mark.proof
async def test_of_several_hosts_the_first_that_answers_is_taken_within_one_deadline(node: RabbitNode) -> None:
    async with listener() as (silent, _):
        hosts = f"nobody.invalid,127.0.0.1:{free_ports(1)[0]},{silent[7:-1]},127.0.0.1:{node.port}"
        link = await Link.open(Address.parse(f"amqp://{hosts}/"), name="test", deadline=12.0)
        assert link.where == f"127.0.0.1:{node.port}"
        await link.close()


async def test_an_opening_that_is_cancelled_leaves_no_socket(node: RabbitNode) -> None:
    before = sockets()
    async with listener() as (url, heard):
        opening = asyncio.create_task(Link.open(Address.parse(url), name="test", deadline=60.0))
        await auntil(lambda: heard)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        await asyncio.wait_for(heard[0].read(), 60)
    for turns in range(60):  # at each turn of the loop that an opening takes, and then some
        opening = asyncio.create_task(Link.open(Address.parse(node.url), name="test", deadline=60.0))
        for _ in range(turns):
            await asyncio.sleep(0)
        opening.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await (await opening).close()
    await auntil(lambda: len(sockets()) <= len(before), "the sockets to be closed")


@pytest.fixture(scope="module")
def tls_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RabbitNode, str]]:
    """A node that speaks TLS too, and the URL for that."""
    folder, port = tmp_path_factory.mktemp("tls"), free_ports(1)[0]
    names = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1")
    command = ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-keyout", "key.pem", "-out", "cert.pem", *names)
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    settings = {
        "listeners.ssl.1": f"127.0.0.1:{port}",
        "ssl_options.cacertfile": f"{folder}/cert.pem",
        "ssl_options.certfile": f"{folder}/cert.pem",
        "ssl_options.keyfile": f"{folder}/key.pem",
    }
    with RabbitNode(folder / "node", "\n".join(f"{name} = {value}" for name, value in settings.items())) as node:
        yield node, f"amqps://localhost:{port}/"


@pytest.mark.proof
async def test_tls_is_spoken_with_a_broker_that_can_prove_its_name_and_with_no_other(tls_node: tuple[RabbitNode, str]) -> None:
    node, url = tls_node
    before = len(sockets())
    link = await Link.open(Address.parse(f"{url}?cacertfile={node.folder.parent}/cert.pem"), name="test", deadline=60.0)
    name, _, _ = await link.queue("", exclusive=True)
    body = os.urandom(300_000)
    await asyncio.gather(*(publish(link, "", name, body, KEPT) for _ in range(20)))
    assert [message.body for message in await take(link, name, 20)] == [body] * 20
    await link.close()
    assert await link.ended == "it was closed here"
    with pytest.raises(BrokerUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
        await Link.open(Address.parse(url), name="test", deadline=60.0)
    with pytest.raises(BrokerUnavailable, match="No such file"):
        await Link.open(Address.parse(f"{url}?cacertfile=/missing"), name="test", deadline=60.0)
    await (await Link.open(Address.parse(f"{url}?verify=verify_none"), name="test", deadline=60.0)).close()
    await auntil(lambda: len(sockets()) == before, "the sockets to be closed")


# --- declaring


async def test_what_is_declared_exists_and_can_be_declared_again(link: Link) -> None:
    name = uuid4().hex
    for _ in range(2):
        await link.exchange(f"from.{name}", "topic", durable=False)
        assert await link.queue(name, arguments={"x-queue-type": "quorum"}) == (name, 0, 0)
        await link.bind(name, f"from.{name}", "a.*")
    await publish(link, f"from.{name}", "a.b", b"1", KEPT)
    with pytest.raises(Unroutable):
        await publish(link, f"from.{name}", "b.a", b"2", KEPT)
    await holds(link, name, 1)
    assert await link.purge(name) == 1
    await fill(link, name, "4", "5")
    assert await link.delete(name) == 2
    assert await link.delete(name) == 0


async def test_a_queue_without_a_name_is_given_one_and_ends_with_the_link(connect: Opens, link: Link) -> None:
    other = await connect()
    name, _, _ = await other.queue("", exclusive=True, durable=False)
    assert name.startswith("amq.gen-")
    with pytest.raises(BrokerError, match="RESOURCE_LOCKED"):
        await link.queue(name, passive=True)
    await other.close()
    with pytest.raises(NotFound):
        await link.queue(name, passive=True)


async def test_what_is_refused_ends_neither_the_link_nor_what_travels_on_it(link: Link, queue: str) -> None:
    came: list[Message] = []
    await link.channel.consume(queue, came.append, prefetch=100, on_cancelled=never)
    futures: list[asyncio.Future[None]] = []
    for kind, refused in (
        (NotFound, lambda: link.queue("missing", passive=True)),
        (TopologyConflict, lambda: link.queue(queue)),
        (TopologyConflict, lambda: link.exchange("amq.topic", "fanout")),
        (NotFound, lambda: link.exchange("missing", "topic", passive=True)),
        (NotFound, lambda: link.bind(queue, "missing", "x")),
        (NotFound, lambda: link.purge("missing")),
        (NotFound, lambda: lent(link, "missing", came.append)),
        (BrokerError, lambda: link.exchange("amq.mine", "topic")),
        (BrokerError, lambda: link.queue("x" * 256)),
        (BrokerError, lambda: link.queue("q", arguments={"pika cannot say": 1.5})),
    ):
        futures.append(publish(link, "", queue, b"", KEPT))
        with pytest.raises(kind):
            await refused()  # type: ignore[operator]
    await asyncio.gather(*futures)
    await auntil(lambda: len(came) == len(futures), "all to be consumed")
    assert not link.ended.done()


async def test_a_conflict_is_told_in_the_words_of_rabbitmq(link: Link, queue: str) -> None:
    with pytest.raises(TopologyConflict, match=rf"inequivalent arg 'x-queue-type' for queue '{queue}'.*current is .*'quorum'"):
        await link.queue(queue)


async def test_declarations_at_the_same_time_get_their_own_answers(link: Link) -> None:
    prefix = uuid4().hex
    asked = [link.queue(f"{prefix}{n}", passive=n % 3 == 0, durable=False, auto_delete=True) for n in range(30)]
    for n, answer in enumerate(await asyncio.gather(*asked, return_exceptions=True)):
        if n % 3 == 0:
            assert isinstance(answer, NotFound)
            assert f"'{prefix}{n}'" in str(answer)
        else:
            assert answer == (f"{prefix}{n}", 0, 0)


@pytest.mark.proof
async def test_the_answer_to_a_declaration_that_was_given_up_is_not_taken_for_that_of_another(node: RabbitNode, connect: Opens) -> None:
    link = await connect(deadline=0.3)
    with frozen(node):
        for given_up in (link.queue("missing", passive=True), link.purge("missing"), link.delete("missing")):
            with pytest.raises(BrokerError, match=r"did not .* within 0.3 s|may be done or not"):
                await given_up
        cancelled = asyncio.create_task(link.queue("missing", passive=True))
        await asyncio.sleep(0.1)
        cancelled.cancel()
    link.deadline = 60.0
    assert (await link.queue(uuid4().hex, exclusive=True))[1:] == (0, 0)
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    assert not link.ended.done()


# --- publishing


async def test_ten_thousand_publications_are_confirmed_in_one_go_and_kept_in_order(link: Link, queue: str) -> None:
    futures = [publish(link, "", queue, b"%d" % n, KEPT) for n in range(10_000)]
    await asyncio.gather(*futures)
    came = await take(link, queue, 10_000, prefetch=10_000)
    assert [int(message.body) for message in came] == list(range(10_000))


async def test_among_thousands_exactly_the_unroutable_fail(link: Link, queue: str) -> None:
    keys = [queue if n % 7 else "nowhere" for n in range(5_000)]
    same = BasicProperties(message_id="one for all")
    assert await outcomes([publish(link, "", key, b"same", same) for key in keys]) == [
        "stored" if key == queue else "Unroutable" for key in keys
    ]


async def test_messages_that_differ_in_a_header_only_fail_by_the_header(link: Link, queue: str) -> None:
    exchange = uuid4().hex
    await link.exchange(exchange, "headers")
    await link.bind(queue, exchange, "", {"x-match": "all", "colour": "red"})
    colours = ["red", "blue", "red", "blue", "blue", "red"] * 100
    futures = [publish(link, exchange, "", b"", BasicProperties(headers={"colour": colour})) for colour in colours]
    assert await outcomes(futures) == ["stored" if colour == "red" else "Unroutable" for colour in colours]


async def test_what_a_full_queue_refuses_is_rejected(link: Link) -> None:
    name = uuid4().hex
    await link.queue(name, arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
    told = [(await outcomes([publish(link, "", name, b"", KEPT)]))[0] for _ in range(5)]
    assert (told[0], told[-1]) == ("stored", "Unconfirmed")
    assert told.count("stored") == (await link.queue(name, arguments={"x-max-length": 1, "x-overflow": "reject-publish"}))[1]
    await link.delete(name)


async def test_a_message_that_amqp_cannot_carry_is_rejected_and_the_next_one_is_not_mistaken_for_it(link: Link, queue: str) -> None:
    futures = [
        publish(link, "", "x" * 256, b"", KEPT),
        publish(link, "", queue, b"1", KEPT),
        publish(link, "", "nowhere", b"", KEPT),
    ]
    assert await outcomes(futures) == ["Rejected", "stored", "Unroutable"]


async def test_a_missing_exchange_fails_what_was_meant_for_it_leaves_the_rest_unconfirmed_and_ends_the_link(link: Link) -> None:
    futures = [publish(link, "missing", "", b"", KEPT), publish(link, "amq.fanout", "", b"", KEPT)]
    assert await outcomes(futures) == ["NotFound", "Unconfirmed"]
    assert "no exchange 'missing'" in await link.ended
    assert await outcomes([publish(link, "amq.fanout", "", b"", KEPT)]) == ["BrokerUnavailable"]
    await asyncio.wait_for(link._protocol.gone, 60)


async def test_a_body_of_many_frames_arrives_whole(link: Link, queue: str) -> None:
    body = os.urandom(3_000_000)
    await publish(link, "", queue, body, KEPT)
    assert (await take(link, queue, 1))[0].body == body


# --- consuming


async def test_messages_are_lent_in_order_with_all_that_was_said_about_them(link: Link, queue: str) -> None:
    said = BasicProperties(message_id="m", headers={"a": 1, "b": "ü"}, content_type="text/plain")
    await link.bind(queue, "amq.topic", "a.#")
    for n in range(3):
        await publish(link, "amq.topic", f"a.{n}", b"%d" % n, said)
    came = await take(link, queue, 3)
    assert [(m.tag, m.redelivered, m.exchange, m.routing_key, m.body) for m in came] == [
        (n + 1, False, "amq.topic", f"a.{n}", b"%d" % n) for n in range(3)
    ]
    told = came[0].properties
    assert (told.message_id, told.headers, told.content_type) == (said.message_id, said.headers, said.content_type)
    assert (told.type, told.correlation_id, told.reply_to, told.timestamp) == (None,) * 4


async def test_no_more_than_the_prefetch_is_lent_and_an_ack_makes_room(link: Link, queue: str) -> None:
    await fill(link, queue, *"abcdef")
    came = await take(link, queue, 2, prefetch=2)
    await link.channel.sync()
    await asyncio.sleep(0.1)
    assert [m.body for m in came] == [b"a", b"b"]
    link.channel.ack(came[-1].tag, multiple=True)
    await auntil(lambda: len(came) == 4, "the next two")


async def test_each_consumer_has_its_own_prefetch(link: Link, queue: str) -> None:
    other = uuid4().hex
    await link.queue(other)
    await fill(link, queue, *"abcdef")
    await fill(link, other, *"abcdef")
    first, second = await take(link, queue, 1, prefetch=1), await take(link, other, 3, prefetch=3)
    await link.channel.sync()
    await asyncio.sleep(0.1)
    assert (len(first), len(second)) == (1, 3)


async def test_what_was_acked_is_gone_and_what_was_not_comes_again_marked_when_the_link_is_cut(
    connect: Opens, link: Link, queue: str
) -> None:
    await fill(link, queue, *"abc")
    other = await connect()
    came = await take(other, queue, 3)
    other.channel.ack(came[0].tag)
    await other.channel.sync()
    other.cut()
    assert await other.ended == "it was cut here"
    again = await take(link, queue, 2)
    assert [(m.body, m.redelivered) for m in again] == [(b"b", True), (b"c", True)]


async def test_a_message_that_is_given_back_comes_again(link: Link, queue: str) -> None:
    await fill(link, queue, "again")
    came = await take(link, queue, 1)
    link.channel.nack(came[0].tag)
    await auntil(lambda: len(came) == 2, "it to come again")
    assert (came[1].body, came[1].redelivered) == (b"again", True)


async def test_after_sync_rabbitmq_has_processed_what_was_settled(link: Link, queue: str) -> None:
    classic = uuid4().hex
    await link.queue(classic)
    for _ in range(20):
        await fill(link, classic, "a")
        came: list[Message] = []
        tag = await link.channel.consume(classic, came.append, prefetch=100, on_cancelled=never)
        await auntil(lambda came=came: came, "it to come")
        link.channel.ack(came[0].tag)
        await link.channel.sync()
        await link.channel.cancel(tag)
        assert await link.queue(classic, passive=True) == (classic, 0, 0)


async def test_a_cancelled_consumer_is_lent_nothing_more_and_can_still_settle(link: Link, queue: str) -> None:
    await fill(link, queue, *"ab")
    came: list[Message] = []
    tag = await link.channel.consume(queue, came.append, prefetch=10, on_cancelled=never)
    await auntil(lambda: len(came) == 2)
    await link.channel.cancel(tag)
    await link.channel.cancel(tag)
    await fill(link, queue, "c")
    link.channel.ack(came[0].tag)
    link.channel.nack(came[1].tag)
    await holds(link, queue, 2)
    assert len(came) == 2


async def test_what_is_on_its_way_to_a_consumer_when_it_is_cancelled_is_lent_and_not_refused(link: Link) -> None:
    name = uuid4().hex
    await link.queue(name, exclusive=True)  # a quorum queue takes some back by itself
    await fill(link, name, *map(str, range(3000)))
    came: list[Message] = []
    while len(came) < 3000:
        before = len(came)
        tag = await link.channel.consume(name, came.append, prefetch=1000, on_cancelled=never)
        await auntil(lambda: len(came) > before)
        await link.channel.cancel(tag)
        after = len(came)
        await link.channel.sync()
        assert len(came) == after
        link.channel.ack(came[-1].tag, multiple=True)
    assert [int(message.body) for message in came] == list(range(3000))
    assert not any(message.redelivered for message in came)


async def test_a_consumer_that_was_given_up_while_it_was_made_does_not_stay(link: Link, queue: str) -> None:
    for turns in range(40):  # at each turn of the loop that it takes, and then some
        made = asyncio.create_task(link.channel.consume(queue, lambda _: None, prefetch=1, on_cancelled=never))
        for _ in range(turns):
            await asyncio.sleep(0)
        made.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await link.channel.cancel(await made)

    async def is_left() -> bool:
        return await link.queue(queue, passive=True) == (queue, 0, 0)

    await auntil(is_left, "all of them to be cancelled")
    assert link.lends == {}


async def test_a_consumer_is_told_when_its_queue_is_deleted(link: Link, queue: str) -> None:
    told: list[str] = []
    tag = await link.channel.consume(queue, lambda _: None, prefetch=1, on_cancelled=lambda: told.append("gone"))
    await link.delete(queue)
    await auntil(lambda: told == ["gone"], "to be told")
    await link.channel.cancel(tag)
    assert not link.ended.done()


async def test_an_exception_of_a_callback_is_logged_and_stops_nobody(link: Link, queue: str, caplog: pytest.LogCaptureFixture) -> None:
    came: list[Message] = []

    def fail_once(message: Message) -> None:
        came.append(message)
        if len(came) == 1:
            raise RuntimeError("mine")

    await link.channel.consume(queue, fail_once, prefetch=10, on_cancelled=lambda: 1 / 0)
    await fill(link, queue, *"abc")
    await auntil(lambda: len(came) == 3)
    await link.delete(queue)
    await auntil(lambda: "cancelled" in caplog.text)
    assert [record.levelno for record in caplog.records if record.name == "chappe.rabbitmq"] == [logging.ERROR] * 2
    await link.channel.sync()


async def test_a_settlement_of_what_is_not_lent_ends_the_link_and_says_so(link: Link) -> None:
    link.channel.ack(7)
    with pytest.raises(BrokerError, match="unknown delivery tag 7"):
        await link.channel.sync()
    assert "unknown delivery tag 7" in await link.ended
    for late in (link.channel.ack, link.channel.nack):
        with pytest.raises(BrokerUnavailable, match="unknown delivery tag 7"):
            late(1)


class Foreign(BasicProperties):
    """A header that another client may write, and pika cannot read: a time in milliseconds where seconds are meant."""

    def encode(self) -> list[bytes]:
        table = b"\x02atT" + struct.pack(">Q", 1_790_000_000_000)
        return [struct.pack(">HI", BasicProperties.FLAG_HEADERS, len(table)), table]


async def test_a_message_whose_headers_cannot_be_read_is_lent_with_the_reason_and_ends_nothing(link: Link, queue: str) -> None:
    futures = [publish(link, "", queue, b"strange", Foreign()), publish(link, "", queue, b"plain", KEPT)]
    await asyncio.gather(*futures)
    came = await take(link, queue, 2)
    assert [m.body for m in came] == [b"strange", b"plain"]
    assert "out of range" in came[0].properties.headers[UNREADABLE]
    assert not link.ended.done()


# --- what happens to the broker


async def test_when_the_broker_is_killed_everything_that_waits_fails(node: RabbitNode, connect: Opens, queue: str) -> None:
    link = await connect()
    await link.queue(queue, passive=True)
    await link.channel.consume(queue, lambda _: None, prefetch=1, on_cancelled=never)
    with frozen(node):
        futures = [publish(link, "", queue, b"", KEPT) for _ in range(1000)]
        asked = [asyncio.create_task(verb) for verb in (link.channel.sync(), link.purge(queue), link.purge(queue))]
        await asyncio.sleep(0.05)
        os.kill(node.pid, signal.SIGKILL)
        with killed(node):
            assert set(await outcomes(futures)) == {"Unconfirmed"}
            kinds = [type(answer) for answer in await asyncio.gather(*asked, return_exceptions=True)]
            assert kinds == [BrokerUnavailable, Unconfirmed, BrokerUnavailable], "the last was not even said"
            assert await link.ended
            assert await outcomes([publish(link, "", queue, b"", KEPT)]) == ["BrokerUnavailable"]
            with pytest.raises(BrokerUnavailable, match=f"127.0.0.1:{node.port} has ended"):
                await link.queue(queue)
        os.kill(node.pid, 0)


@pytest.mark.proof
async def test_a_frozen_broker_is_noticed_within_three_heartbeats(node: RabbitNode, connect: Opens) -> None:
    link = await connect(heartbeat=1)
    await asyncio.sleep(1.5)
    assert not link.ended.done()
    with frozen(node):
        before = time.monotonic()
        assert await asyncio.wait_for(link.ended, 60) == "nothing was heard for 2 s"
        assert 1.0 < time.monotonic() - before < 8.0


@pytest.mark.proof
async def test_with_a_frozen_broker_every_verb_ends_within_its_deadline_and_goes_on_when_it_thaws(
    node: RabbitNode, connect: Opens, queue: str
) -> None:
    link = await connect(deadline=0.4)
    await link.queue(queue, passive=True)
    with frozen(node):
        before = time.monotonic()
        futures = [publish(link, "", queue, b"", KEPT) for _ in range(10)]
        verbs: list[tuple[type[BrokerError], Callable[[], Awaitable[object]]]] = [
            (Unconfirmed, lambda: link.delete("missing")),
            (BrokerUnavailable, lambda: link.delete("missing")),  # not said before the first was answered
            (BrokerUnavailable, link.channel.sync),
            (BrokerUnavailable, lambda: link.queue(queue)),
            (BrokerUnavailable, lambda: link.channel.consume(queue, lambda _: None, prefetch=1, on_cancelled=never)),
        ]

        async def fails(kind: type[BrokerError], verb: Callable[[], Awaitable[object]]) -> None:
            with pytest.raises(kind, match="within 0.4 s"):
                await verb()

        await asyncio.gather(*(fails(*verb) for verb in verbs))
        assert set(await outcomes(futures)) == {"Unconfirmed"}
        assert time.monotonic() - before < 4.0
    await auntil(lambda: not link._confirms, "the late confirmations")
    await publish(link, "", queue, b"", KEPT)
    await link.channel.sync()
    assert not link.ended.done()


@pytest.mark.proof
async def test_a_memory_alarm_is_told_at_once_and_untold(node: RabbitNode, connect: Opens, queue: str) -> None:
    link = await connect(heartbeat=1, deadline=0.5)
    await asyncio.to_thread(node.control, "set_vm_memory_high_watermark", "0")
    try:
        await publish(link, "", queue, b"", KEPT)  # RabbitMQ blocks with the first that comes, and still takes that
        await auntil(lambda: link.blocked == "low on memory", "to be told")
        with pytest.raises(Unconfirmed):
            await publish(link, "", queue, b"", KEPT)
        await asyncio.sleep(2.6)
        assert not link.ended.done(), "a blocked connection hears heartbeats all the same"
    finally:
        await asyncio.to_thread(node.control, "set_vm_memory_high_watermark", "0.4")
    await auntil(lambda: link.blocked is None, "to be untold")
    await publish(link, "", queue, b"", KEPT)


# --- the end


async def test_a_link_that_is_closed_says_so_and_leaves_no_socket(node: RabbitNode, connect: Opens, queue: str) -> None:
    before = len(sockets())
    link = await connect()
    await link.channel.consume(queue, lambda _: None, prefetch=1, on_cancelled=never)
    futures = [publish(link, "", queue, b"", KEPT) for _ in range(100)]
    await link.close()
    await link.close()
    assert await link.ended == "it was closed here"
    assert set(await outcomes(futures)) <= {"stored", "Unconfirmed"}
    assert len(sockets()) == before
    with pytest.raises(BrokerUnavailable, match="it was closed here"):
        await link.channel.sync()


@pytest.mark.proof
async def test_closing_takes_a_second_at_most_when_nobody_answers(node: RabbitNode, connect: Opens, queue: str) -> None:
    link = await connect()
    with frozen(node):
        asked = asyncio.create_task(link.channel.sync())
        await asyncio.sleep(0)
        start = time.monotonic()
        await link.close()
        assert time.monotonic() - start < 4.0
        with pytest.raises(BrokerUnavailable):
            await asked


async def test_a_link_that_is_cut_ends_at_once_with_all_that_waits(connect: Opens, queue: str) -> None:
    link = await connect()
    future = publish(link, "", queue, b"", KEPT)
    link.cut()
    assert link.ended.result() == "it was cut here"
    assert await outcomes([future]) == ["Unconfirmed"]
    await link.close()
    link.cut()


async def test_when_rabbitmq_closes_the_connection_its_words_are_kept(node: RabbitNode, connect: Opens) -> None:
    link = await connect()
    await asyncio.to_thread(node.control, "close_all_connections", "for the test")
    assert "CONNECTION_FORCED - for the test" in await asyncio.wait_for(link.ended, PATIENCE)


async def test_nothing_is_lent_after_a_cut_even_if_it_has_already_arrived(connect: Opens, link: Link, queue: str) -> None:
    await fill(link, queue, *map(str, range(200)))
    other = await connect()
    came: list[Message] = []

    def cut_at_the_third(message: Message) -> None:
        came.append(message)
        if len(came) == 3:
            other.cut()

    with contextlib.suppress(BrokerUnavailable):
        await other.channel.consume(queue, cut_at_the_third, prefetch=500, on_cancelled=never)
    await asyncio.wait_for(other._protocol.gone, PATIENCE)
    assert len(came) == 3
    await holds(link, queue, 200)


async def test_who_gives_up_waiting_for_the_end_does_not_keep_others_from_failing(connect: Opens, node: RabbitNode, queue: str) -> None:
    link = await connect()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(link.ended, 0.01)
    future = publish(link, "", queue, b"", KEPT)
    link.cut()
    assert await outcomes([future]) == ["Unconfirmed"]
    with pytest.raises(BrokerUnavailable, match="it was cut here"):
        await link.channel.sync()
