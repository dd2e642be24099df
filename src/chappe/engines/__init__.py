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
    from chappe.engines.postgres.broker import PostgresBroker
    from chappe.engines.postgres.store import PostgresStore
    from chappe.engines.rabbitmq.broker import RabbitBroker
    from chappe.engines.rabbitmq.kept import Kept
    from chappe.engines.rabbitmq.store.store import PostgresStore as StoreBesideRabbit


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


def postgresql(settings: Settings, *, role: str = "client") -> tuple[PostgresBroker, PostgresStore]:
    """Return PostgreSQL as broker and store. Raises `InvalidSettings` if its client is not installed, or cannot read the URL."""
    try:
        from psycopg import ProgrammingError
        from psycopg.conninfo import conninfo_to_dict

        from chappe.engines.postgres.broker import PostgresBroker
        from chappe.engines.postgres.store import PostgresStore
    except ImportError as error:
        raise InvalidSettings(f'broker postgresql://… needs more ({error}): pip install "chappe[postgres]"') from None
    try:
        conninfo_to_dict(settings.broker)
    except ProgrammingError:
        raise InvalidSettings(
            "broker: PostgreSQL's client cannot read this URL; write postgresql://user:password@host:port/database, "
            "with % and a number for each of : / ? # @ % in the password"
        ) from None
    broker = PostgresBroker(settings.broker, role=role, deadline=settings.deadline)
    return broker, PostgresStore(broker)


def rabbitmq_broker(settings: Settings, kept: Kept, *, role: str = "client") -> RabbitBroker:
    """Return RabbitMQ beside a store that keeps what it has no notion of. Raises `InvalidSettings` if its client is not installed."""
    try:
        from chappe.engines.rabbitmq.broker import RabbitBroker
    except ImportError as error:
        raise InvalidSettings(f'broker amqp://… needs more ({error}): pip install "chappe[rabbitmq,postgres]"') from None
    return RabbitBroker(settings.broker, kept, role=role, deadline=settings.deadline)


def rabbitmq_store(settings: Settings, *, role: str = "client") -> StoreBesideRabbit:
    """Return the store beside RabbitMQ. Raises `InvalidSettings` if its client is not installed."""
    try:
        from chappe.engines.rabbitmq.store.store import PostgresStore as StoreBesideRabbit
    except ImportError as error:
        raise InvalidSettings(f'store postgresql://… needs more ({error}): pip install "chappe[rabbitmq,postgres]"') from None
    assert settings.store is not None
    return StoreBesideRabbit(settings.store, role=role, deadline=settings.deadline)


def publisher(settings: Settings, topology: Callable[[], Topology], is_declared: Callable[[], bool]) -> Publisher:
    """Return what publishes for threads without an event loop."""
    if settings.is_file:
        from chappe.engines.file.broker import FilePublisher

        return FilePublisher(settings.path, topology, deadline=settings.deadline)
    if settings.is_postgres:
        from chappe.engines.postgres.blocking import PostgresPublisher

        return PostgresPublisher(settings.broker, topology, deadline=settings.deadline)
    from chappe.engines.rabbitmq.blocking import RabbitPublisher

    return RabbitPublisher(settings.broker, topology, is_declared, deadline=settings.deadline)
