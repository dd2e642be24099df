"""Chappe in a FastAPI application: connections that end with it, the application as a dependency, and errors as problems.

::

    api = FastAPI()
    install(api, app)

    @api.post("/orders", dependencies=[while_open])
    async def order(order: Order, chappe: Chappe) -> str:
        return (await chappe.asend(SendInvoice(order=order.id))).id
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Annotated, Any, Final

from fastapi import Depends, FastAPI, Request, Response

from chappe.app import App
from chappe.errors import BrokerError, ChappeError
from chappe.web.intake import Intake, refused
from chappe.web.problems import problem_of


class _Paused(Exception):
    """The intake is paused."""


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
    api.state.chappe_intake = Intake(app)
    api.add_exception_handler(ChappeError, _answered)
    api.add_exception_handler(_Paused, lambda _, __: refused())


def _answered(_: Request, error: Exception) -> Response:
    assert isinstance(error, ChappeError)
    return problem_of(error)


def application(request: Request) -> App:
    """Return the application that was installed."""
    return request.app.state.chappe


async def intake_is_open(request: Request) -> bool:
    """Tell whether new work is taken, as `chappe pause --intake` says, or said when the broker was last there."""
    intake: Intake = request.app.state.chappe_intake
    try:
        return not await intake.is_paused()
    except BrokerError:
        return not intake.was_paused


def _refuse(is_open: Annotated[bool, Depends(intake_is_open)]) -> None:
    if not is_open:
        raise _Paused


Chappe = Annotated[App, Depends(application)]
IntakeIsOpen = Annotated[bool, Depends(intake_is_open)]
while_open: Final = Depends(_refuse)  # answers 503 with `Retry-After` while the intake is paused
