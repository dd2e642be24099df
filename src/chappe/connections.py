"""The connections of an application: one for each event loop, and one for threads that have none."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import msgspec

from chappe import engines
from chappe.bus.portal import Portal
from chappe.bus.registry import Registry
from chappe.connection import Connection, Setting, connect
from chappe.engines.contract.broker import Publisher
from chappe.forking import in_child
from chappe.messages.topology import Topology
from chappe.settings import Settings, load

R = TypeVar("R")


class Connections:
    """The connections of one application; a forked child begins anew."""

    def __init__(self, registry: Registry, setting: Setting) -> None:
        """Prepare; a connection is opened when it is first needed."""
        self.setting = setting
        self._registry = registry
        self._inherited: object = None
        self._lock = threading.Lock()
        self.forget()
        in_child(self.forget)

    def forget(self) -> None:
        """Begin anew, with a thread and connections of this process's own."""
        self._inherited = self.__dict__.copy()  # what a forked child got of its parent is not its own to close
        self._lock = threading.Lock()
        self._portal: Portal | None = None
        self._publisher: Publisher | None = None
        self._declared: Topology | None = None
        self._opened: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Connection] = weakref.WeakKeyDictionary()

    @property
    def settings(self) -> Settings:
        """The settings in force."""
        if self.setting.settings is None:
            self.setting = msgspec.structs.replace(self.setting, settings=load())
        assert self.setting.settings is not None
        return self.setting.settings

    async def here(self, info: dict[str, Any] | None = None) -> Connection:
        """Return the connection of the running event loop, with the application's topology declared."""
        loop = asyncio.get_running_loop()
        connection = self._opened.get(loop)
        if connection is None:
            for other in [known for known in self._opened if known.is_closed()]:
                del self._opened[other]  # its connection closes with the last reference
            connection = self._opened[loop] = connect(self.settings, self.setting, info or {})
        if connection.declared is not self._registry.topology():
            async with connection.declaring:
                while connection.declared is not (topology := self._registry.topology()):
                    await connection.broker.declare(topology)  # a class that is sent for the first time adds to it
                    connection.declared = self._declared = topology
        return connection

    def publisher(self) -> Publisher | None:
        """Return what publishes without an event loop; nothing where the engine is in this process."""
        if self.setting.engine is not None:
            return None
        publisher = self._publisher
        if publisher is None:
            with self._lock:
                publisher = self._publisher or engines.publisher(
                    self.settings, self._registry.topology, lambda: self._declared is self._registry.topology()
                )
                self._publisher = publisher
        return publisher

    def run(self, work: Coroutine[Any, Any, R]) -> R:
        """Run a coroutine on an event loop of the application's own, in its thread, and return its result."""
        with self._lock:
            if self._portal is None:
                self._portal = Portal()
        return self._portal.run(work)

    async def close_here(self) -> None:
        """Close the connection of the running event loop."""
        connection = self._opened.pop(asyncio.get_running_loop(), None)
        if connection is not None:
            await connection.close()

    def close(self, last: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Close what threads without an event loop use; `last` is what the application's own loop runs at its end."""
        with self._lock:
            portal, self._portal = self._portal, None
            publisher, self._publisher = self._publisher, None
        if publisher is not None:
            publisher.close()
        if portal is not None:
            portal.close(last())
