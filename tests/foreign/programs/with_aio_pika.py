"""A program that knows aio-pika, RabbitMQ and JSON, and nothing of Chappe: does what is told on stdin, prints what it consumes."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import sys
from typing import Any

import aio_pika


def written(letter: dict[str, Any]) -> bytes:
    at = dt.datetime.fromtimestamp(letter["at"] / 1000, dt.UTC)
    return json.dumps({**letter, "at": at.isoformat(), "day": dt.date(*letter["day"]).isoformat()}, ensure_ascii=False).encode()


def read(body: bytes) -> dict[str, Any]:
    letter = json.loads(body)
    at = dt.datetime.fromisoformat(letter["at"])
    return {**letter, "at": round(at.timestamp() * 1000), "day": list(dt.date.fromisoformat(letter["day"]).timetuple()[:3])}


async def main() -> None:
    told = json.load(sys.stdin)
    async with await aio_pika.connect(told["url"]) as connection:
        channel = await connection.channel()
        for exchange in told["exchanges"]:
            await channel.declare_exchange(
                exchange["name"],
                exchange["kind"],
                durable=exchange["durable"],
                auto_delete=exchange["auto_delete"],
                arguments=exchange["arguments"],
            )
        for queue in told["queues"]:
            declared = await channel.declare_queue(
                queue["name"], durable=queue["durable"], auto_delete=queue["auto_delete"], arguments=queue["arguments"]
            )
            for exchange, key in queue["bindings"]:
                await declared.bind(exchange, key)
        for message in told["publish"]:
            body = message["body"].encode() if "body" in message else written(message["letter"])
            outgoing = aio_pika.Message(body, content_type="application/json", **message["properties"])
            known = await channel.get_exchange(message["exchange"], ensure=False) if message["exchange"] else channel.default_exchange
            await known.publish(outgoing, message["key"])
        if told["consume"] is not None:
            await consume(channel, told["consume"]["queue"], told["consume"]["count"])


async def consume(channel: aio_pika.abc.AbstractChannel, queue: str, count: int) -> None:
    declared = await channel.get_queue(queue)
    async with declared.iterator() as messages:
        async for message in messages:
            print(
                json.dumps(
                    {
                        "letter": read(message.body),
                        "body": message.body.decode(),
                        "exchange": message.exchange,
                        "key": message.routing_key,
                        "type": message.type,
                        "message_id": message.message_id,
                        "content_type": message.content_type,
                        "timestamp": None if message.timestamp is None else message.timestamp.timestamp(),
                    }
                )
            )
            await message.ack()
            count -= 1
            if not count:
                break


asyncio.run(main())
