"""A program that knows pika and JSON, and nothing of Chappe: prints what is said on a fanout exchange while it is there."""

import json
import sys
from typing import Any

import pika

url, exchange = sys.argv[1:3]
connection = pika.BlockingConnection(pika.URLParameters(url))
channel: Any = connection.channel()
channel.exchange_declare(exchange=exchange, exchange_type="fanout")
queue: str = channel.queue_declare(queue="", exclusive=True).method.queue
channel.queue_bind(exchange=exchange, queue=queue)
print("listening", flush=True)
for _, _, body in channel.consume(queue, auto_ack=True):
    print(json.dumps(json.loads(body)), flush=True)
