"""Chappe in a FastAPI application: connections that end with it, the application as a dependency, and errors as problems.

::

    api = FastAPI()
    install(api, app)

    @api.post("/orders")
    async def order(order: Order, chappe: Chappe) -> str:
        return (await chappe.asend(SendInvoice(order=order.id))).id
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request, Response

from chappe.app import App
from chappe.errors import ChappeError
from chappe.web.problems import problem_of


def install(api: FastAPI, app: App) -> None:
    """Close the application's connections when the API ends, and answer errors of Chappe as `application/problem+json`.

    What is invalid is answered 422, a key that came with another body 409, and a broker that is away 503 with `Retry-After`.
    """
    around = api.router.lifespan_context

    @asynccontextmanager
    async def lifespan(asgi: Any) -> AsyncGenerator[Any]:
        async with around(asgi) as state:
            try:
                yield state
            finally:
                await app.aclose()
                await asyncio.to_thread(app.close)

    api.router.lifespan_context = lifespan
    api.state.chappe = app
    api.add_exception_handler(ChappeError, _answered)


def _answered(_: Request, error: Exception) -> Response:
    assert isinstance(error, ChappeError)
    return problem_of(error)


def application(request: Request) -> App:
    """Return the application that was installed."""
    return request.app.state.chappe


Chappe = Annotated[App, Depends(application)]
