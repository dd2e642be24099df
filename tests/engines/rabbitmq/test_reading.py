"""Frames that we write and read by ourselves, held against pika's: the same bytes, the same messages, wherever they are cut."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pika import BasicProperties, frame
from pika.spec import Basic

from chappe.engines.rabbitmq.frames import publication, short
from chappe.engines.rabbitmq.properties import properties_of
from chappe.engines.rabbitmq.reading import Message, NotRead, complete, confirmation, delivery, is_delivery
from chappe.errors import Rejected
from chappe.messages.envelope import Envelope

MOST = 131_072
texts = st.text(max_size=20)
tables = st.dictionaries(st.text(min_size=1, max_size=10), st.one_of(texts, st.booleans(), st.integers(-(2**31), 2**63 - 1)), max_size=4)
shorts = st.none() | texts


def delivered(method: Basic.Deliver, properties: BasicProperties, body: bytes, *, most: int = MOST) -> bytes:
    """Return the frames of a delivery as RabbitMQ sends them."""
    frames: list[Any] = [frame.Method(1, method), frame.Header(1, len(body), properties)]
    frames += [frame.Body(1, body[at : at + most]) for at in range(0, len(body), most)]
    return b"".join(one.marshal() for one in frames)


def read(data: bytes) -> tuple[int, str, Message] | None:
    end = complete(data, 0)
    return delivery(data, 0, end) if end else None


@settings(max_examples=200, deadline=None)
@given(
    tables, shorts, shorts, shorts, shorts, shorts, st.none() | st.integers(0, 2**40), st.binary(max_size=300), st.booleans(), texts, texts,
    st.integers(1, 2**40), st.sampled_from([7, 64, MOST]),
)  # fmt: skip
def test_a_delivery_is_read_as_pika_reads_it_and_never_before_its_end(
    headers: dict[str, Any], message_id: Any, kind: Any, content_type: Any, correlation_id: Any, reply_to: Any, timestamp: Any,
    body: bytes, again: bool, exchange: str, key: str, tag: int, most: int,
) -> None:  # fmt: skip
    said = BasicProperties(
        headers=headers or None, message_id=message_id, type=kind, content_type=content_type, correlation_id=correlation_id,
        reply_to=reply_to, timestamp=timestamp, delivery_mode=2, priority=3, expiration="7", content_encoding="gzip", app_id="test",
    )  # fmt: skip
    data = delivered(Basic.Deliver("consumer", tag, again, exchange, key), said, body, most=most)
    assert is_delivery(data, 0)
    found = read(data + b"\x08the next")
    assert found is not None
    end, consumer, message = found
    assert (end, consumer) == (len(data), "consumer")
    assert (message.tag, message.redelivered, message.exchange, message.routing_key, message.body) == (tag, again, exchange, key, body)
    told = message.properties
    assert (told.headers or None, told.message_id, told.type, told.content_type) == (said.headers, message_id, kind, content_type)
    assert (told.correlation_id, told.reply_to, told.timestamp, told.app_id) == (correlation_id, reply_to, timestamp, "test")
    for cut in range(len(data)):
        assert read(data[:cut]) is None


@pytest.mark.parametrize(
    "headers", [{"x": {"nested": 1}}, {"x": [1]}, {"x": None}, {"x": b"bytes \xff"}, {"x": 2**31}], ids=["table", "list", "none", "bytes", "long"]
)  # fmt: skip
def test_what_is_rare_is_left_to_pika_or_read_as_well(headers: dict[str, Any]) -> None:
    data = delivered(Basic.Deliver("c", 1, False, "", "q"), BasicProperties(headers=headers), b"x")
    try:
        found = read(data)
    except NotRead:
        return
    assert found is not None
    assert found[2].properties.headers == headers


def test_frames_of_another_channel_between_those_of_a_delivery_are_left_to_pika() -> None:
    data = delivered(Basic.Deliver("c", 1, False, "", "q"), BasicProperties(), b"x")
    end = complete(data, 0)
    with pytest.raises(NotRead):
        read(data[:end] + frame.Heartbeat().marshal() + data[end:])


def test_a_confirmation_is_known_and_other_methods_are_not() -> None:
    assert confirmation(frame.Method(1, Basic.Ack(7, True)).marshal(), 0) == (7, True)
    assert confirmation(frame.Method(1, Basic.Ack(2**40, False)).marshal(), 0) == (2**40, False)
    assert confirmation(frame.Method(1, Basic.Nack(7, True)).marshal(), 0) is None
    assert not is_delivery(frame.Method(1, Basic.Ack(7, True)).marshal(), 0)


@settings(max_examples=100, deadline=None)
@given(texts, texts, st.binary(max_size=200), st.sampled_from([4096, 16, 64]))
def test_a_publication_is_written_as_pika_writes_it(exchange: str, key: str, body: bytes, most: int) -> None:
    said = BasicProperties(message_id="m", headers={"a": "ü"}, delivery_mode=2)
    frames: list[Any] = [
        frame.Method(3, Basic.Publish(exchange=exchange, routing_key=key, mandatory=True)),
        frame.Header(3, len(body), said),
    ]
    frames += [frame.Body(3, body[at : at + most - 8]) for at in range(0, len(body), most - 8)]
    written = publication(3, exchange, key, body, b"".join(said.encode()), most)
    assert written == b"".join(one.marshal() for one in frames)


@given(st.dictionaries(st.text(min_size=1, max_size=10), texts, max_size=3), shorts, shorts)
def test_the_properties_of_an_envelope_can_be_read_by_pika(
    headers: dict[str, str], correlation_id: str | None, reply_to: str | None
) -> None:
    written = properties_of(Envelope("id", "kind", b"", 12.5, "text/plain", headers, correlation_id, reply_to), {"chappe-copies": "7:x"})
    read = BasicProperties()
    read.decode(written)
    assert (read.message_id, read.type, read.content_type, read.delivery_mode, read.timestamp) == ("id", "kind", "text/plain", 2, 12)
    assert (read.correlation_id, read.reply_to) == (correlation_id, reply_to)
    assert {**headers, "chappe-copies": "7:x", "chappe-timestamp": "12.5"}.items() <= dict(read.headers or {}).items()


@pytest.mark.parametrize(
    "envelope", [Envelope("i" * 256, "t", b""), Envelope("i", "t" * 256, b""), Envelope("i", "t", b"", headers={"\ud800": "x"})]
)
def test_what_amqp_cannot_carry_is_rejected_before_anything_is_sent(envelope: Envelope) -> None:
    with pytest.raises(Rejected, match="cannot be sent by AMQP"):
        properties_of(envelope)
    with pytest.raises(ValueError, match="at most 255"):
        short("x" * 256)
