"""What of a RabbitMQ would break a promise, looked for on request: its version, rights, queues, policies and the way to it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from typing import Final
from uuid import uuid4

from pika import BasicProperties

from chappe.engines.rabbitmq.address import Address
from chappe.engines.rabbitmq.confirms import Outgoing, raise_if_refused
from chappe.engines.rabbitmq.link import Link
from chappe.engines.rabbitmq.names import QUORUM
from chappe.engines.rabbitmq.policies import policies
from chappe.errors import BrokerError, NotFound, TopologyConflict
from chappe.messages.finding import Finding

_OLDEST: Final = (3, 10)
_TESTED: Final = "3.10 and 4.0"
_LONGEST_HEARTBEAT: Final = 60
_LOOPBACK: Final = ("localhost", "127.", "::1")


async def preflight(link: Link, address: Address, queues: Sequence[str], deadline: float) -> AsyncIterator[Finding]:
    """Return what was found, the good too; `link` confirms, `queues` are those that were declared."""
    yield _version(link.server_version)
    yield _way(address)
    try:
        await _use(link, deadline)
    except BrokerError as error:
        yield Finding(
            "rabbitmq rights",
            "wrong",
            f"{address.user} cannot declare, write and read in {address.vhost}, or nothing is confirmed: {error}",
        )
    else:
        yield Finding("rabbitmq rights", "ok", f"{address.user} declares, writes and reads in {address.vhost}, and is confirmed")
    wrong = [told for name in queues if (told := await _queue(link, name))]
    if wrong:
        yield Finding("rabbitmq queues", "warning", "; ".join(wrong))
    else:
        yield Finding("rabbitmq queues", "ok", f"{len(queues)} declared, all of them quorum queues")
    yield await policies(address, link.where.rpartition(":")[0], queues, deadline)


def _version(told: str) -> Finding:
    found = re.match(r"(\d+)\.(\d+)", told)
    if found is None or (int(found[1]), int(found[2])) < _OLDEST:
        return Finding(
            "rabbitmq version", "wrong", f"{told}: at least 3.10 is needed, for quorum queues that keep the order of what comes back"
        )
    if found[0] not in _TESTED:
        return Finding("rabbitmq version", "warning", f"{told}: Chappe is tested with {_TESTED}; try what you need with this one first")
    return Finding("rabbitmq version", "ok", told)


def _way(address: Address) -> Finding:
    if not address.heartbeat or address.heartbeat > _LONGEST_HEARTBEAT:
        told = f"heartbeat={address.heartbeat} in the URL: a connection that died without a word is found after two of them, or never"
        return Finding("rabbitmq way", "warning", f"{told}; leave it at ten seconds")
    if not address.tls and any(not host.startswith(_LOOPBACK) for host, _ in address.hosts):
        return Finding("rabbitmq way", "warning", "passwords and messages travel readable to another host: amqps:// keeps them to yourself")
    return Finding(
        "rabbitmq way", "ok", f"{len(address.hosts)} hosts, {'TLS' if address.tls else 'loopback'}, a heartbeat every {address.heartbeat} s"
    )


async def _use(link: Link, deadline: float) -> None:
    """Do what Chappe does: declare, publish confirmed, consume."""
    name, came = f"chappe.doctor.{uuid4().hex}", asyncio.Event()
    await link.queue(name, durable=False, exclusive=True, auto_delete=True)
    raise_if_refused(await link.publish([Outgoing("", name, b"", b"".join(BasicProperties().encode()))]))
    tag = await link.channel.consume(name, lambda _: came.set(), prefetch=1, on_cancelled=came.set)
    try:
        async with asyncio.timeout(deadline):
            await came.wait()
    except TimeoutError:
        raise BrokerError("what was confirmed is not delivered") from None
    await link.channel.cancel(tag)
    await link.delete(name)


async def _queue(link: Link, name: str) -> str | None:
    """Tell what is wrong with a queue."""
    try:
        await link.queue(name, passive=True)
    except NotFound:
        return f'there is no queue "{name}", though it was declared: start the application that declares it'
    try:
        await link.queue(name, arguments=QUORUM)
    except TopologyConflict as error:
        return f'queue "{name}" is none as Chappe declares them ({error}): well if it is another program\'s, else delete it when empty'
    return None
