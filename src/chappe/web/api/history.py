"""The history of the queues over HTTP."""

from __future__ import annotations

from typing import Final, Literal

import apsw
from msgspec import Struct
from starlette.responses import Response

from chappe.app import App
from chappe.clocks import wall
from chappe.roles import READ
from chappe.web.api.operations import Part, get
from chappe.web.history import ALL, DAY, HOUR, MINUTE, Point
from chappe.web.problems import problem
from chappe.web.watching import Watching

_PERIODS: Final = {"hour": (HOUR, MINUTE), "day": (DAY, MINUTE), "week": (7 * DAY, HOUR), "quarter": (90 * DAY, DAY)}


class _Points(Struct, frozen=True):
    step: int
    points: list[Point]


class HistoryRoutes(Part):
    """The route of what was kept."""

    def __init__(self, app: App, watching: Watching) -> None:
        super().__init__(app)
        self._watching = watching

    @get("/api/history", READ)
    async def points(self, *, queue: str = ALL, period: Literal["hour", "day", "week", "quarter"] = "hour") -> _Points | Response:
        """Tell how a queue, or all of them together, were in the last hour, day, week or quarter."""
        (length, step), now = _PERIODS[period], wall()
        try:
            return _Points(step, await self._watching.history(lambda history: history.read(queue, step, now - length, now)))
        except (OSError, apsw.Error) as error:
            return problem(503, "The history cannot be read", str(error))
