"""What one gateway of each host watches, over HTTP: the history of the queues, and the alerts that have fired."""

from __future__ import annotations

from typing import Final, Literal

import apsw
from msgspec import Struct
from starlette.responses import Response

from chappe.app import App
from chappe.clocks import wall
from chappe.roles import READ
from chappe.web.alerts import Fired, fired_alerts
from chappe.web.api.operations import Part, get
from chappe.web.history import ALL, DAY, HOUR, MINUTE, Point
from chappe.web.problems import problem
from chappe.web.watching import Watching

_PERIODS: Final = {"hour": (HOUR, MINUTE), "day": (DAY, MINUTE), "week": (7 * DAY, HOUR), "quarter": (90 * DAY, DAY)}


class Points(Struct, frozen=True):
    """What was kept of a queue, `step` seconds from one point to the next."""

    step: int
    points: list[Point]


class _Alerts(Struct, frozen=True):
    alerts: list[Fired]


class Watched(Part):
    """The routes of what was kept and told."""

    def __init__(self, app: App, watching: Watching) -> None:
        super().__init__(app)
        self._watching = watching

    @get("/api/history", READ)
    async def points(self, *, queue: str = ALL, period: Literal["hour", "day", "week", "quarter"] = "hour") -> Points | Response:
        """Tell how a queue, or all of them together, were in the last hour, day, week or quarter."""
        (length, step), now = _PERIODS[period], wall()
        try:
            return Points(step, await self._watching.history(lambda history: history.read(queue, step, now - length, now)))
        except (OSError, apsw.Error) as error:
            return problem(503, "The history cannot be read", str(error))

    @get("/api/alerts", READ)
    async def alerts(self) -> _Alerts:
        """List the alerts that have fired and are not over."""
        return _Alerts(await fired_alerts(await self._store()))
