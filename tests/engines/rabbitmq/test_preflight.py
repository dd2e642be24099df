"""What doctor finds at a RabbitMQ: old versions, ways that hide a dead host, queues of another kind, rights that are missing."""

# The rules are looked at one by one.
# pyright: reportPrivateUsage=false

from __future__ import annotations

from uuid import uuid4

import pytest

from chappe.engines.rabbitmq.address import Address
from chappe.engines.rabbitmq.link import Link
from chappe.engines.rabbitmq.names import QUORUM
from chappe.engines.rabbitmq.preflight import _version, _way, preflight
from tests.servers.rabbitmq import RabbitNode


@pytest.mark.parametrize(
    ("version", "verdict"), [("3.10.8", "ok"), ("4.0.5", "ok"), ("3.8.9", "wrong"), ("3.9.29", "wrong"), ("4.3.0", "warning"), ("3.13.7", "warning"), ("of an unknown version", "wrong")]
)  # fmt: skip
def test_a_version_is_tested_untried_or_too_old(version: str, verdict: str) -> None:
    assert _version(version).verdict == verdict


@pytest.mark.parametrize(
    ("url", "verdict"),
    [
        ("amqp://localhost/", "ok"), ("amqp://127.0.0.1:5673,127.0.0.2/", "ok"), ("amqps://far.example/", "ok"), ("amqp://far.example/", "warning"),
        ("amqp://localhost/?heartbeat=0", "warning"), ("amqp://localhost/?heartbeat=600", "warning"),
    ],
)  # fmt: skip
def test_a_way_is_open_to_others_or_hides_a_dead_host(url: str, verdict: str) -> None:
    assert _way(Address.parse(url)).verdict == verdict


async def test_a_queue_of_another_kind_and_one_that_is_missing_are_named(link: Link, node: RabbitNode) -> None:
    quorum, classic, missing = (uuid4().hex for _ in range(3))
    await link.queue(quorum, arguments=QUORUM)
    await link.queue(classic)
    address = Address.parse(node.url)
    found = {f.check: f async for f in preflight(link, address, [quorum], 5.0)}
    assert {check: f.verdict for check, f in found.items() if check != "rabbitmq version"} == {
        "rabbitmq way": "ok", "rabbitmq rights": "ok", "rabbitmq queues": "ok", "rabbitmq policies": "warning",
    }  # fmt: skip
    found = {f.check: f async for f in preflight(link, address, [quorum, classic, missing], 5.0)}
    assert found["rabbitmq queues"].verdict == "warning"
    assert classic in found["rabbitmq queues"].text
    assert f'there is no queue "{missing}"' in found["rabbitmq queues"].text
    assert quorum not in found["rabbitmq queues"].text


async def test_rights_that_are_missing_are_wrong(node: RabbitNode) -> None:
    user = f"u{uuid4().hex[:8]}"
    node.control("add_user", user, "secret")
    node.control("set_permissions", user, "^$", ".*", ".*")
    address = Address.parse(node.url.replace("guest:guest", f"{user}:secret"))
    link = await Link.open(address, name="test", deadline=60.0)
    try:
        found = {f.check: f async for f in preflight(link, address, [], 5.0)}
        assert found["rabbitmq rights"].verdict == "wrong"
        assert user in found["rabbitmq rights"].text
    finally:
        await link.close()
