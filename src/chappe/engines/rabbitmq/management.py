"""What RabbitMQ's management plugin tells over HTTP, where there is one: over AMQP nobody can see it."""

from __future__ import annotations

import asyncio
import base64
import http
import http.client
from collections.abc import Iterable
from typing import Final, TypeVar
from urllib.parse import quote

import msgspec
from msgspec import Struct

from chappe.engines.rabbitmq.address import Address
from chappe.errors import BrokerError
from chappe.messages.capabilities import Exchange

T = TypeVar("T")


class _Passed(Struct):
    publish_in: int = 0
    publish_out: int = 0


class _Exchange(Struct):
    name: str
    message_stats: _Passed = msgspec.field(default_factory=_Passed)


_exchanges: Final = msgspec.json.Decoder(list[_Exchange])


async def passed(address: Address, host: str, exchanges: Iterable[Exchange], deadline: float) -> dict[str, tuple[int, int]]:
    """Return how many messages anybody published to each exchange, and how many RabbitMQ delivered to queues. Raises `BrokerError`.

    What an exchange archives is delivered to the archive too, which is no subscriber.
    """
    found = {
        one.name: one.message_stats
        for one in await ask(address, host, "exchanges", "name,message_stats.publish_in,message_stats.publish_out", _exchanges, deadline)
    }
    counted = [(exchange, found[exchange.name]) for exchange in exchanges if exchange.name in found]
    return {e.name: (n.publish_in, max(0, n.publish_out - (n.publish_in if e.archive else 0))) for e, n in counted}


async def ask(address: Address, host: str, what: str, columns: str, answer: msgspec.json.Decoder[T], deadline: float) -> T:
    """Return what the plugin of a host tells of all of a kind in the virtual host. Raises `BrokerError`, naming the place."""
    where = f"{'https' if address.tls else 'http'}://{host}:{address.management}"
    try:
        path = f"/api/{what}/{quote(address.vhost, safe='')}?columns={columns}"
        return answer.decode(await asyncio.to_thread(_get, address, host, path, deadline))
    except (OSError, http.client.HTTPException, msgspec.MsgspecError) as error:
        raise BrokerError(f"the management plugin does not tell them at {where} ({str(error) or repr(error)})") from None


def _get(address: Address, host: str, path: str, deadline: float) -> bytes:
    """Ask the plugin, and nobody to whom it or a proxy's setting would send us on: the password is for the host that was named."""
    context = address.context()
    if context is None:
        connection = http.client.HTTPConnection(host, address.management, timeout=deadline)
    else:
        connection = http.client.HTTPSConnection(host, address.management, timeout=deadline, context=context)
    entrance = base64.b64encode(f"{address.user}:{address.password}".encode()).decode()
    try:
        connection.request("GET", path, headers={"Authorization": f"Basic {entrance}"})
        answer = connection.getresponse()
        if answer.status != http.HTTPStatus.OK:
            raise OSError(f"{answer.status} {answer.reason}")
        return answer.read()
    finally:
        connection.close()
