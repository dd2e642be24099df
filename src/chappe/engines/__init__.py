"""Where messages wait: the contract, and here the one place that names its implementations."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from chappe.errors import InvalidSettings
from chappe.messages.topology import Topology
from chappe.settings import Settings

if TYPE_CHECKING:
    from chappe.engines.contract.broker import Publisher
    from chappe.engines.file.broker import FileBroker
    from chappe.engines.file.client import Client
    from chappe.engines.file.server import Engine
    from chappe.engines.file.store import FileStore
    from chappe.engines.rabbitmq.broker import RabbitBroker
    from chappe.engines.rabbitmq.kept import Kept
    from chappe.engines.rabbitmq.store.store import PostgresStore


def load(settings: Settings) -> None:
    """Import the libraries of the engine, as far as they are installed, before a project's folder is searched for them."""
    if not settings.is_file:
        with contextlib.suppress(ImportError):
            for module in ("broker", "blocking", "store.store"):
                importlib.import_module(f"chappe.engines.rabbitmq.{module}")


def file_broker(settings: Settings, *, role: str = "client", may_own_file: bool = True, engine: Engine | None = None) -> FileBroker:
    """Return the broker of a file, inside a running event loop; it connects with its first verb."""
    from chappe.engines.file.broker import FileBroker

    return FileBroker(settings.path, role=role, may_own_file=may_own_file, engine=engine, deadline=settings.deadline)


def file_store(client: Client) -> FileStore:
    """Return the store that shares the connection of the file's broker."""
    from chappe.engines.file.store import FileStore

    return FileStore(client)


def rabbitmq_broker(settings: Settings, kept: Kept, *, role: str = "client") -> RabbitBroker:
    """Return RabbitMQ beside a store that keeps what it has no notion of. Raises `InvalidSettings` if its client is not installed."""
    try:
        from chappe.engines.rabbitmq.broker import RabbitBroker
    except ImportError as error:
        raise InvalidSettings(f'broker amqp://… needs more ({error}): pip install "chappe[rabbitmq,postgres]"') from None
    return RabbitBroker(settings.broker, kept, role=role, deadline=settings.deadline)


def rabbitmq_store(settings: Settings, *, role: str = "client") -> PostgresStore:
    """Return the store beside RabbitMQ. Raises `InvalidSettings` if its client is not installed."""
    try:
        from chappe.engines.rabbitmq.store.store import PostgresStore
    except ImportError as error:
        raise InvalidSettings(f'store postgresql://… needs more ({error}): pip install "chappe[rabbitmq,postgres]"') from None
    assert settings.store is not None
    return PostgresStore(settings.store, role=role, deadline=settings.deadline)


def publisher(settings: Settings, topology: Callable[[], Topology], is_declared: Callable[[], bool]) -> Publisher:
    """Return what publishes for threads without an event loop."""
    if settings.is_file:
        from chappe.engines.file.broker import FilePublisher

        return FilePublisher(settings.path, topology, deadline=settings.deadline)
    from chappe.engines.rabbitmq.blocking import RabbitPublisher

    return RabbitPublisher(settings.broker, topology, is_declared, deadline=settings.deadline)
