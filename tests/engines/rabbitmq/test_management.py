"""What RabbitMQ's management plugin counts of exchanges, as the overview tells it; nothing where there is no such plugin."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from typing import NamedTuple

import pytest

from chappe.engines.postgres.broker import PostgresBroker
from chappe.engines.postgres.store import PostgresStore
from chappe.engines.rabbitmq import address
from chappe.engines.rabbitmq.broker import RabbitBroker
from chappe.engines.rabbitmq.names import RELAY
from chappe.messages.capabilities import Exchange
from chappe.messages.envelope import Envelope, Publication
from chappe.messages.topology import Topology, bind

from ...servers.ports import free_ports
from ...servers.shared import Database, Vhost
from ...waiting import auntil
from .test_policies import Managed, managed

TOLD = [
    {"name": ""},
    {"name": "news", "message_stats": {"publish_in": 20, "publish_out": 40}},
    {"name": "kept", "message_stats": {"publish_in": 7, "publish_out": 14}},
    {"name": "quiet", "message_stats": {}},
    {"name": "of.others", "message_stats": {"publish_in": 9, "publish_out": 9}},
]
TOPOLOGY = Topology(
    (Exchange("news"), Exchange("kept", archive=60.0), Exchange("quiet"), Exchange("unheard")),
    (bind("first", "news:k"), bind("second", "news:k"), bind("third", "kept:k")),
)


class Plugin(NamedTuple):
    port: int
    asked: list[str]


@pytest.fixture
def plugin() -> Iterator[Plugin]:
    asked: list[str] = []

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(TOLD).encode())

        def log_message(self, *_: object) -> None: ...

    with http.server.HTTPServer(("127.0.0.1", 0), Answer) as server:
        serving = threading.Thread(target=server.serve_forever, args=(0.01,))
        serving.start()
        yield Plugin(server.server_port, asked)
        server.shutdown()
        serving.join()


@asynccontextmanager
async def opened(url: str, postgres: Database) -> AsyncGenerator[tuple[RabbitBroker, PostgresStore]]:
    kept = PostgresBroker(postgres.url, deadline=60.0, relay=RELAY)
    broker = RabbitBroker(url, kept, deadline=60.0, settling=0.0)
    await broker.declare(TOPOLOGY)
    try:
        yield broker, PostgresStore(kept, broker)
    finally:
        await broker.close()


async def test_what_the_plugin_counts_of_our_exchanges_is_told_and_the_archive_is_no_subscriber(
    rabbit: Vhost, postgres: Database, plugin: Plugin
) -> None:
    async with opened(f"{rabbit.url}?management={plugin.port}", postgres) as (_, store):

        async def passed() -> dict[str, tuple[int, int]]:
            return (await store.overview()).passed

        expected = {"news": (20, 40), "kept": (7, 7), "quiet": (0, 0)}
        await auntil(passed, "the plugin to be heard")
        assert await passed() == expected
        assert f"/api/exchanges/{rabbit.name}?columns=name,message_stats.publish_in,message_stats.publish_out" in plugin.asked


async def test_the_plugin_is_told_no_password_where_the_url_does_not_name_its_port(
    rabbit: Vhost, postgres: Database, plugin: Plugin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(address._MANAGEMENT, "amqp", plugin.port)
    async with opened(rabbit.url, postgres) as (broker, store):
        assert broker.address.management == plugin.port
        assert (await store.overview()).passed == {}
    assert not plugin.asked


async def test_without_the_plugin_nothing_is_told_and_all_else_is(rabbit: Vhost, postgres: Database) -> None:
    (nobody,) = free_ports(1)
    async with opened(f"{rabbit.url}?management={nobody}", postgres) as (_, store):
        overview = await store.overview()
        assert overview.passed == {}
        assert {exchange.name for exchange in overview.exchanges} >= {"news", "kept"}


@pytest.mark.proof
async def test_h8_the_plugin_itself_counts_one_delivery_for_one_subscriber_and_two_for_two(managed: Managed, postgres: Database) -> None:
    async with opened(f"{managed.node.url}?management={managed.port}", postgres) as (broker, store):
        for number in range(10):
            await broker.publish([Publication(Envelope(f"m{number}", "t", b"{}"), "k", name) for name in ("news", "kept")])

        async def is_counted() -> bool:
            passed = (await store.overview()).passed
            return passed.get("news") == (10, 20) and passed.get("kept") == (10, 10)

        await auntil(is_counted, "the plugin to count")


__all__ = ["managed"]
