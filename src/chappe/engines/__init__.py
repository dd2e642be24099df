"""Where messages wait: the contract, and here the one place that names its implementations."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from chappe.errors import InvalidSettings
from chappe.messages.topology import Topology
from chappe.settings import Settings

if TYPE_CHECKING:
    from chappe.engines.contract.broker import Broker, Publisher
    from chappe.engines.contract.store import Store
    from chappe.engines.file.server import Engine
    from chappe.engines.postgres.broker import PostgresBroker
    from chappe.engines.rabbitmq.broker import RabbitBroker

_OF_SERVERS: Final = ("postgres.broker", "postgres.store", "postgres.blocking", "rabbitmq.broker", "rabbitmq.blocking")


def load(settings: Settings) -> None:
    """Import the libraries of the engine, as far as they are installed, before a project's folder is searched for them."""
    modules = ("file.broker", "file.store") if settings.is_file else _OF_SERVERS
    with contextlib.suppress(ImportError):
        for module in modules:
            importlib.import_module(f"chappe.engines.{module}")


def connected(
    settings: Settings, info: dict[str, Any], *, role: str = "client", may_own_file: bool = True, engine: Engine | None = None
) -> tuple[Broker, Store]:
    """Return the engine of the settings as broker and store, inside a running event loop; they connect with the first verb.

    `info` is what the engine shows of this process. Raises `InvalidSettings` if a client is not installed, or cannot read its URL.
    """
    if settings.is_file:
        from chappe.engines.file.broker import FileBroker
        from chappe.engines.file.store import store_of

        file = FileBroker(
            settings.path,
            role=role, info=info, may_own_file=may_own_file, engine=engine, deadline=settings.deadline, large_body=settings.large_body,
        )  # fmt: skip
        return file, store_of(file)
    if settings.is_postgres:
        rabbit, kept = None, _postgres_broker(settings, "broker", settings.broker, role=role)
    else:
        rabbit, kept = _rabbitmq_beside_postgresql(settings, role=role)
    from chappe.engines.postgres.store import PostgresStore

    kept.presence.info = info
    return rabbit or kept, PostgresStore(kept, rabbit)


def _rabbitmq_beside_postgresql(settings: Settings, *, role: str) -> tuple[RabbitBroker, PostgresBroker]:
    assert settings.store is not None
    try:
        from chappe.engines.rabbitmq.broker import RabbitBroker
        from chappe.engines.rabbitmq.names import RELAY
    except ImportError as error:
        raise InvalidSettings(f'broker amqp://… needs more ({error}): pip install "chappe[rabbitmq,postgres]"') from None
    kept = _postgres_broker(settings, "store", settings.store, role=role, relay=RELAY)
    return RabbitBroker(settings.broker, kept, role=role, deadline=settings.deadline), kept


def _postgres_broker(settings: Settings, setting: str, url: str, *, role: str, relay: str | None = None) -> PostgresBroker:
    try:
        from psycopg import ProgrammingError
        from psycopg.conninfo import conninfo_to_dict

        from chappe.engines.postgres.broker import PostgresBroker
    except ImportError as error:
        extra = "postgres" if relay is None else "rabbitmq,postgres"
        raise InvalidSettings(f'{setting} postgresql://… needs more ({error}): pip install "chappe[{extra}]"') from None
    try:
        conninfo_to_dict(url)
    except ProgrammingError:
        raise InvalidSettings(
            f"{setting}: PostgreSQL's client cannot read this URL; write postgresql://user:password@host:port/database, "
            "with % and a number for each of : / ? # @ % in the password"
        ) from None
    return PostgresBroker(url, role=role, deadline=settings.deadline, relay=relay)


def publisher(settings: Settings, topology: Callable[[], Topology], is_declared: Callable[[], bool]) -> Publisher:
    """Return what publishes for threads without an event loop."""
    if settings.is_file:
        from chappe.engines.file.blocking import FilePublisher

        return FilePublisher(settings.path, topology, deadline=settings.deadline, large_body=settings.large_body)
    from chappe.engines.postgres.blocking import PostgresPublisher

    if settings.is_postgres:
        return PostgresPublisher(settings.broker, topology, deadline=settings.deadline)
    from chappe.engines.rabbitmq.blocking import RabbitPublisher
    from chappe.engines.rabbitmq.names import RELAY

    assert settings.store is not None
    kept = PostgresPublisher(settings.store, topology, deadline=settings.deadline, relay=RELAY)
    return RabbitPublisher(settings.broker, topology, is_declared, kept=kept, deadline=settings.deadline)
