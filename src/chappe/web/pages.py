"""The pages of the dashboard: the files that Vite built, or one that says how to build them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

BUILT: Final = Path(__file__).parent / "dashboard"
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS: Final = {"Content-Security-Policy": POLICY, "Referrer-Policy": "no-referrer", "X-Frame-Options": "DENY"}
_FOR_EVER: Final = "public, max-age=31536000, immutable"  # their names change with their content
_MISSING: Final = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>Chappe: the dashboard is not built</title></head>
<body>
<h1>The dashboard is not built in this checkout</h1>
<p>Its pages are in the wheel of Chappe. In a checkout they are built with Node 20 or newer:
<code>make dashboard</code>, then start <code>chappe run</code> again.</p>
<p>Everything else works without them: see <code>chappe --help</code> and <a href="../openapi.json">the API</a>.</p>
</body>
</html>
"""


class _Files(StaticFiles):
    def file_response(
        self, full_path: str | os.PathLike[str], stat_result: os.stat_result, scope: Scope, status_code: int = 200
    ) -> Response:
        response = super().file_response(full_path, stat_result, scope, status_code)
        response.headers.update(_HEADERS)
        response.headers["Cache-Control"] = _FOR_EVER if Path(full_path).parent.name == "assets" else "no-cache"
        return response


def pages(built: Path = BUILT) -> list[Route | Mount]:
    """Return the routes of the dashboard; their addresses are relative, so that they work below any path."""

    async def folder(_: Request) -> Response:
        return RedirectResponse("dashboard/", 307)

    async def missing(_: Request) -> Response:
        return HTMLResponse(_MISSING, headers=_HEADERS)

    is_built = (built / "index.html").is_file()
    inside = (
        Mount("/dashboard", _Files(directory=built, html=True)) if is_built else Route("/dashboard/{path:path}", missing, methods=["GET"])
    )
    return [Route("/dashboard", folder, methods=["GET"]), inside]
