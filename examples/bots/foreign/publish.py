"""A program that knows pika and JSON, and nothing of Chappe: publishes one message to a fanout exchange."""

import datetime
import json
import sys

import pika

url, exchange, name = sys.argv[1:4]
connection = pika.BlockingConnection(pika.URLParameters(url))
channel = connection.channel()
channel.exchange_declare(exchange=exchange, exchange_type="fanout")
message = {"name": name, "date": datetime.datetime(2016, 8, 15, 15, 47, 7).isoformat(), "author": "MicroJoe UTF-8 Æ¢V→−≠É–È„⋅®…"}
channel.basic_publish(exchange=exchange, routing_key="", body=json.dumps(message))
channel.basic_publish(exchange=exchange, routing_key="", body=b"\xff\x00 no JSON")
connection.close()
