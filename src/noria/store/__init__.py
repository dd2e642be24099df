"""What is remembered beside the broker: the contract, and the one place that names its implementations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from noria.engine.client import Client
from noria.errors import InvalidSettings
from noria.settings import Settings
from noria.store.embedded import EmbeddedStore

if TYPE_CHECKING:
    from noria.store.postgres.store import PostgresStore


def embedded(client: Client) -> EmbeddedStore:
    """Give the store that shares the embedded broker's connection."""
    return EmbeddedStore(client)


def distributed(settings: Settings, *, role: str = "client") -> PostgresStore:
    """Give the store beside RabbitMQ. Raises `InvalidSettings` if its client is not installed."""
    try:
        from noria.store.postgres.store import PostgresStore
    except ImportError as error:
        raise InvalidSettings(f'store postgresql://… needs more ({error}): pip install "noria[rabbitmq,postgres]"') from None
    assert settings.store is not None
    return PostgresStore(settings.store, role=role, deadline=settings.deadline)
