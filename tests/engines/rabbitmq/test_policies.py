"""What doctor says of policies, as a RabbitMQ with its management plugin tells them."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from chappe.engines.rabbitmq.address import Address
from chappe.engines.rabbitmq.link import Link
from chappe.engines.rabbitmq.management import _get
from chappe.engines.rabbitmq.names import QUORUM
from chappe.engines.rabbitmq.policies import policies
from chappe.messages.finding import Finding

from ...servers.ports import LOOPBACK, free_ports
from ...servers.rabbitmq import RabbitNode
from ...waiting import auntil


class Managed(NamedTuple):
    """A node and the port of its management plugin."""

    node: RabbitNode
    port: int


@pytest.fixture(scope="module")
def managed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Managed]:
    if missing := RabbitNode.missing():
        pytest.skip(missing)
    (port,) = free_ports(1)
    node = RabbitNode(tmp_path_factory.mktemp("managed"), f"management.tcp.port = {port}\nmanagement.tcp.ip = {LOOPBACK}")
    (node.folder / "enabled_plugins").write_text("[rabbitmq_management].\n")
    with node:
        yield Managed(node, port)


async def look(managed: Managed, *queues: str, entrance: str = "guest:guest", port: int | None = None) -> Finding:
    url = f"{managed.node.url}?management={port or managed.port}".replace("guest:guest", entrance)
    return await policies(Address.parse(url), LOOPBACK, queues, 5.0)


@pytest.mark.proof
async def test_policies_that_lose_are_wrong_those_that_refuse_are_told_and_others_are_nothing(managed: Managed) -> None:
    link = await Link.open(Address.parse(managed.node.url), name="test", deadline=60.0)
    for name in ("short", "kept", "full", "tired"):
        await link.queue(name, arguments=QUORUM)
    await link.close()

    async def told(verdict: str, *queues: str) -> bool:
        return (await look(managed, *queues)).verdict == verdict

    # The plugin opens its port, and hears of queues and policies, some time after the server has them.
    await auntil(lambda: told("ok", "kept", "short", "full", "tired"), "the plugin to answer", 60)
    managed.node.control("set_policy", "--apply-to", "queues", "ttl", "^short$", '{"message-ttl": 60000}')
    managed.node.control("set_policy", "--apply-to", "queues", "limit", "^full$", '{"max-length": 5}')
    managed.node.control("set_policy", "--apply-to", "queues", "poison", "^tired$", '{"delivery-limit": 20}')
    for name, verdict, words in (
        ("short", "wrong", 'by policy "ttl": what waits for 60000 ms is deleted'),
        ("full", "warning", 'by policy "limit": more than 5 messages are refused'),
        ("tired", "wrong", 'by policy "poison": what was delivered 20 times is deleted'),
        ("kept", "ok", "of 1 queues"),
    ):
        await auntil(lambda name=name, verdict=verdict: told(verdict, name), f"{name} to be {verdict}")
        assert words in (await look(managed, name)).text
    assert (await look(managed, "kept", entrance="guest:wrong")).verdict == "warning"
    assert "401" in (await look(managed, "kept", entrance="guest:wrong")).text
    (nobody,) = free_ports(1)
    assert "rabbitmqctl list_policies" in (await look(managed, "kept", port=nobody)).text


def test_the_password_does_not_follow_a_redirect() -> None:
    seen: list[str | None] = []

    class Other(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.headers.get("Authorization"))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"[]")

        def log_message(self, *_: object) -> None: ...

    with http.server.HTTPServer(("127.0.0.1", 0), Other) as other:

        class Named(Other):
            def do_GET(self) -> None:
                self.send_response(302)
                self.send_header("Location", f"http://localhost:{other.server_port}/x")
                self.end_headers()

        with http.server.HTTPServer(("127.0.0.1", 0), Named) as named:
            serving = [threading.Thread(target=server.serve_forever, args=(0.01,)) for server in (other, named)]
            for thread in serving:
                thread.start()
            try:
                with pytest.raises(OSError, match="302"):
                    _get(Address.parse(f"amqp://u:canary@h/?management={named.server_port}"), "127.0.0.1", "/api/queues/x", 30.0)
            finally:
                other.shutdown()
                named.shutdown()
                for thread in serving:
                    thread.join()
    assert seen == []
