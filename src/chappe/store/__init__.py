"""What is remembered beside the broker: the contract, and the one place that names its implementations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chappe.engine.client import Client
from chappe.errors import InvalidSettings
from chappe.settings import Settings
from chappe.store.embedded import EmbeddedStore

if TYPE_CHECKING:
    from chappe.store.postgres.store import PostgresStore


def embedded(client: Client) -> EmbeddedStore:
    """Return the store that shares the embedded broker's connection."""
    return EmbeddedStore(client)


def distributed(settings: Settings, *, role: str = "client") -> PostgresStore:
    """Return the store beside RabbitMQ. Raises `InvalidSettings` if its client is not installed."""
    try:
        from chappe.store.postgres.store import PostgresStore
    except ImportError as error:
        raise InvalidSettings(f'store postgresql://… needs more ({error}): pip install "chappe[rabbitmq,postgres]"') from None
    assert settings.store is not None
    return PostgresStore(settings.store, role=role, deadline=settings.deadline)
