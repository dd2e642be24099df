"""What is remembered beside the broker: the contract, and the one place that names its implementations."""

from __future__ import annotations

from noria.engine.client import Client
from noria.store.embedded import EmbeddedStore


def connect(client: Client) -> EmbeddedStore:
    """Give the store that shares the embedded broker's connection."""
    return EmbeddedStore(client)
