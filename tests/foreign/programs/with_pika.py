"""A program that knows pika, RabbitMQ and JSON, and nothing of Chappe: does what is told on stdin, prints what it consumes."""

from __future__ import annotations

import datetime as dt
import json
import sys
from typing import Any

import pika

TOKYO = dt.timezone(dt.timedelta(hours=9))


def written(letter: dict[str, Any]) -> str:
    at = dt.datetime.fromtimestamp(letter["at"] / 1000, TOKYO)
    return json.dumps({**letter, "at": at.isoformat(), "day": dt.date(*letter["day"]).isoformat()})


def read(body: bytes) -> dict[str, Any]:
    letter = json.loads(body)
    at = dt.datetime.fromisoformat(letter["at"])
    return {**letter, "at": round(at.timestamp() * 1000), "day": list(dt.date.fromisoformat(letter["day"]).timetuple()[:3])}


def main() -> None:
    told = json.load(sys.stdin)
    connection = pika.BlockingConnection(pika.URLParameters(told["url"]))
    channel = connection.channel()
    channel.confirm_delivery()
    for exchange in told["exchanges"]:
        channel.exchange_declare(
            exchange["name"],
            exchange["kind"],
            durable=exchange["durable"],
            auto_delete=exchange["auto_delete"],
            arguments=exchange["arguments"],
        )
    for queue in told["queues"]:
        channel.queue_declare(queue["name"], durable=queue["durable"], auto_delete=queue["auto_delete"], arguments=queue["arguments"])
        for exchange, key in queue["bindings"]:
            channel.queue_bind(queue["name"], exchange, key)
    for message in told["publish"]:
        body = message["body"] if "body" in message else written(message["letter"])
        properties = pika.BasicProperties(content_type="application/json", **message["properties"])
        channel.basic_publish(message["exchange"], message["key"], body, properties)
    if told["consume"] is not None:
        consume(channel, told["consume"]["queue"], told["consume"]["count"])
    connection.close()


def consume(channel: Any, queue: str, count: int) -> None:
    for method, properties, body in channel.consume(queue):
        print(
            json.dumps(
                {
                    "letter": read(body),
                    "body": body.decode(),
                    "exchange": method.exchange,
                    "key": method.routing_key,
                    "type": properties.type,
                    "message_id": properties.message_id,
                    "content_type": properties.content_type,
                    "timestamp": properties.timestamp,
                }
            )
        )
        channel.basic_ack(method.delivery_tag)
        if method.delivery_tag == count:
            break
    channel.cancel()


main()
