"""One release of the application: its settings, and what starts processes that have it imported."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Final

from chappe.errors import ChildFailed
from chappe.settings import Settings
from chappe.supervisor.launcher import ExecLauncher, ForkLauncher, Launcher, open_launcher

log = logging.getLogger("chappe.supervisor")

IMPORTED_WITHIN: Final = 60.0


class Release:
    """What `chappe run` starts processes from until the next reload, by its `launcher`."""

    def __init__(self, settings: Settings, environment: Mapping[str, str], *, gateway: bool = True) -> None:
        self.settings = settings
        self._gateway = gateway
        self._environment = environment
        self.launcher: Launcher = ExecLauncher(environment)
        self._restoring = asyncio.Lock()

    async def open(self) -> None:
        """Import the application; raises `ChildFailed` if that does not succeed."""
        self.launcher = await open_launcher(self._environment, IMPORTED_WITHIN, fork=self.settings.fork, gateway=self._gateway)

    async def restore(self) -> None:
        """Import the application again if the process that held it has died."""
        async with self._restoring:
            if isinstance(self.launcher, ForkLauncher) and self.launcher.ended.done():
                log.error("the process that holds the application ended; it is imported again, as it is on the disk now")
                try:
                    await self.open()
                except ChildFailed as error:
                    log.error("%s; what runs goes on, nothing new is started", error)

    async def close(self) -> None:
        """End what only starting needed."""
        await self.launcher.close()
