"""What RabbitMQ's policies do to queues, as its management plugin tells it: over AMQP nobody can see them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

import msgspec
from msgspec import Struct

from chappe.engines.rabbitmq.address import Address
from chappe.engines.rabbitmq.management import ask
from chappe.engines.rabbitmq.names import QUORUM
from chappe.errors import BrokerError
from chappe.messages.finding import Finding

_CHECK: Final = "rabbitmq policies"
_LOSES: Final = {
    "message-ttl": "what waits for {} ms is deleted",
    "expires": "the queue is deleted when nobody uses it for {} ms",
    "delivery-limit": "what was delivered {} times is deleted",
}
_REFUSES: Final = {"max-length": "more than {} messages are refused", "max-length-bytes": "more than {} bytes are refused"}


class _Queue(Struct):
    name: str
    policy: str | None = None
    operator_policy: str | None = None
    effective_policy_definition: dict[str, Any] | list[Any] = {}  # an empty array where there is none


_queues: Final = msgspec.json.Decoder(list[_Queue])


async def policies(address: Address, host: str, queues: Collection[str], deadline: float) -> Finding:
    """Look at the policies of these AMQP queues by the management plugin of a host."""
    try:
        found = await ask(address, host, "queues", "name,policy,operator_policy,effective_policy_definition", _queues, deadline)
    except BrokerError as error:
        remedy = (
            'enable it, give this user the tag "management", name its port by ?management=… in the URL, or read rabbitmqctl list_policies'
        )
        return Finding(_CHECK, "warning", f"cannot be seen over AMQP, and {error}: {remedy}")
    ours = [queue for queue in found if queue.name in queues]
    loses, refuses = ([told for queue in ours for told in _told(queue, effects)] for effects in (_LOSES, _REFUSES))
    if loses:
        return Finding(_CHECK, "wrong", f"messages are lost: {'; '.join(loses + refuses)}; take these queues out of the policy")
    if refuses:
        return Finding(_CHECK, "warning", f"{'; '.join(refuses)}: their senders are told so, nothing is lost")
    return Finding(_CHECK, "ok", f"none deletes or refuses anything of {len(ours)} queues")


def _told(queue: _Queue, effects: dict[str, str]) -> list[str]:
    defined = queue.effective_policy_definition
    if isinstance(defined, list):
        return []
    names = " and ".join(f'"{name}"' for name in (queue.policy, queue.operator_policy) if name)
    limit: int = QUORUM["x-delivery-limit"]
    return [
        f'"{queue.name}" by policy {names}: {text.format(defined[key])}'
        for key, text in effects.items()
        if key in defined and not (key == "delivery-limit" and defined[key] >= limit)
    ]
