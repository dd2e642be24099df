"""Whether new commands are taken over HTTP: an operator may close the door while the backlog drains."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from starlette.responses import Response

from chappe.app import App
from chappe.engines.contract.fleet import INTAKE, PAUSED
from chappe.web.problems import problem

LOOK: Final = 1.0  # seconds for which an answer of the store holds


class Intake:
    """Asks the store at most once a second."""

    def __init__(self, app: App, now: Callable[[], float] = time.monotonic) -> None:
        self._app = app
        self._now = now
        self._looked_at = float("-inf")
        self._known = 0
        self.was_paused = False

    async def is_paused(self) -> bool:
        """Tell whether an operator has paused the intake."""
        if self._now() - self._looked_at >= LOOK:
            connection = await self._app.connection()
            for one in await connection.store.desired(after=self._known):
                self._known = one.number
                if one.what == INTAKE:
                    self.was_paused = one.value == PAUSED
            self._looked_at = self._now()
        return self.was_paused


def refused() -> Response:
    """Return the answer to what comes while the intake is paused."""
    detail = "new commands are not taken now; what was taken goes on"
    return problem(503, "The intake is paused", detail, headers={"Retry-After": "60"})
