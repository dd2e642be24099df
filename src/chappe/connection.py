"""The broker and store of one event loop, opened as the settings say."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import msgspec

from chappe import engines
from chappe.engines.contract.broker import Broker
from chappe.engines.contract.store import Store
from chappe.messages.topology import Topology
from chappe.settings import Settings

if TYPE_CHECKING:
    from chappe.engines.file.server import Engine  # 2 MB that only a process which owns a file needs


class Connection:
    """The broker and store of one event loop."""

    def __init__(self, broker: Broker, store: Store) -> None:
        self.broker = broker
        self.store = store
        self.close = broker.close
        self.declaring = asyncio.Lock()
        self.declared: Topology | None = None


class Setting(msgspec.Struct, frozen=True):
    """Where an application runs: its settings, its role, and whether it may own the file for the moment of a send.

    `handle` handles what waits, a message of this id with it, before its result is waited for: in a test no worker does it by itself.
    """

    settings: Settings | None = None
    role: str = "client"
    may_own_file: bool = True
    engine: Engine | None = None
    handle: Callable[[str, float], Awaitable[None]] | None = None


def connect(settings: Settings, setting: Setting, info: dict[str, Any]) -> Connection:
    """Return what is connected when it is first used; `info` is what the engine shows of this process."""
    return Connection(*engines.connected(settings, info, role=setting.role, may_own_file=setting.may_own_file, engine=setting.engine))
