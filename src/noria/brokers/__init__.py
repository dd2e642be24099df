"""How a message travels: the contract, and the one place that names its implementations."""

from __future__ import annotations

from collections.abc import Callable

from noria.brokers.contract import Publisher
from noria.brokers.embedded import EmbeddedBroker, EmbeddedPublisher
from noria.engine.server import Engine
from noria.messages.topology import Topology
from noria.settings import Settings


def connect(settings: Settings, *, role: str = "client", alone: bool = True, engine: Engine | None = None) -> EmbeddedBroker:
    """Give the broker that the settings name, inside a running event loop; it connects with its first verb."""
    return EmbeddedBroker(settings.path, role=role, alone=alone, engine=engine, deadline=settings.deadline)


def publisher(settings: Settings, topology: Callable[[], Topology]) -> Publisher:
    """Give what publishes for threads without an event loop, where the broker can be reached."""
    return EmbeddedPublisher(settings.path, topology, deadline=settings.deadline)
