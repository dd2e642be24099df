"""A RabbitMQ node that tests may kill, and links to it that are closed when a test ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from typing import Protocol
from uuid import uuid4

import pytest

from chappe.engines.rabbitmq.address import Address
from chappe.engines.rabbitmq.link import Link
from tests.servers.rabbitmq import RabbitNode


@pytest.fixture(scope="session")
def node(rabbit_node: RabbitNode) -> RabbitNode:
    """A running node; a test that kills it starts it again."""
    return rabbit_node


class Opens(Protocol):
    def __call__(self, *, heartbeat: int = 10, deadline: float = 60.0) -> Awaitable[Link]: ...


@pytest.fixture
async def connect(node: RabbitNode) -> AsyncIterator[Opens]:
    """Open links to the node."""
    opened: list[Link] = []

    async def connect(*, heartbeat: int = 10, deadline: float = 60.0) -> Link:
        address = Address.parse(f"{node.url}?heartbeat={heartbeat}")
        opened.append(await Link.open(address, name="test", deadline=deadline))
        return opened[-1]

    yield connect
    await asyncio.gather(*(link.close() for link in opened))


@pytest.fixture
async def link(connect: Opens) -> Link:
    """A link to the node."""
    return await connect()


@pytest.fixture
async def queue(link: Link) -> AsyncIterator[str]:
    """A fresh quorum queue."""
    name = f"q-{uuid4().hex}"
    await link.queue(name, arguments={"x-queue-type": "quorum"})
    yield name
