"""The history of the queues over HTTP."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import apsw
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from chappe.errors import InvalidMessage
from chappe.web.api.described import described
from chappe.web.api.requests import answer
from chappe.web.history import ALL, DAY, HOUR, MINUTE, Point
from chappe.web.problems import problem
from chappe.web.watching import Watching

_PERIODS: Final = {"hour": (HOUR, MINUTE), "day": (DAY, MINUTE), "week": (7 * DAY, HOUR), "quarter": (90 * DAY, DAY)}


class _Points(Struct, frozen=True):
    step: int
    points: list[Point]


class HistoryRoutes:
    """The route of what was kept."""

    def __init__(self, watching: Watching, now: Callable[[], float]) -> None:
        self._watching = watching
        self._now = now

    def routes(self) -> list[Route]:
        """Return the route of the history."""
        return [Route("/api/history", self._get, methods=["GET"])]

    @described(answers=_Points, query=("queue", "period"))
    async def _get(self, request: Request) -> Response:
        """Tell how a queue, or all of them together, were in the last hour, day, week or quarter."""
        queue, period = request.query_params.get("queue", ALL), request.query_params.get("period", "hour")
        if period not in _PERIODS:
            raise InvalidMessage("the query", {"period": f"it is one of {', '.join(_PERIODS)}"})
        (length, step), now = _PERIODS[period], self._now()
        try:
            points = await self._watching.history(lambda history: history.read(queue, step, now - length, now))
        except (OSError, apsw.Error) as error:
            return problem(503, "The history cannot be read", str(error))
        return answer(_Points(step, points))
