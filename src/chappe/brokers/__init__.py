"""How a message travels: the contract, and the one place that names its implementations."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from chappe.brokers.contract import Publisher
from chappe.brokers.embedded import EmbeddedBroker, EmbeddedPublisher
from chappe.engine.server import Engine
from chappe.errors import InvalidSettings
from chappe.messages.topology import Topology
from chappe.settings import Settings

if TYPE_CHECKING:
    from chappe.brokers.rabbitmq.broker import RabbitBroker
    from chappe.brokers.rabbitmq.kept import Kept


def embedded(settings: Settings, *, role: str = "client", may_own_file: bool = True, engine: Engine | None = None) -> EmbeddedBroker:
    """Return the broker of a file, inside a running event loop; it connects with its first verb."""
    return EmbeddedBroker(settings.path, role=role, may_own_file=may_own_file, engine=engine, deadline=settings.deadline)


def distributed(settings: Settings, kept: Kept, *, role: str = "client") -> RabbitBroker:
    """Return RabbitMQ beside a store that keeps what it has no notion of. Raises `InvalidSettings` if its client is not installed."""
    try:
        from chappe.brokers.rabbitmq.broker import RabbitBroker
    except ImportError as error:
        raise InvalidSettings(f'broker amqp://… needs more ({error}): pip install "chappe[rabbitmq,postgres]"') from None
    return RabbitBroker(settings.broker, kept, role=role, deadline=settings.deadline)


def publisher(settings: Settings, topology: Callable[[], Topology], is_declared: Callable[[], bool]) -> Publisher:
    """Return what publishes for threads without an event loop."""
    if settings.is_embedded:
        return EmbeddedPublisher(settings.path, topology, deadline=settings.deadline)
    from chappe.brokers.rabbitmq.blocking import RabbitPublisher

    return RabbitPublisher(settings.broker, topology, is_declared, deadline=settings.deadline)
