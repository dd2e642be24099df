"""What every route of the API does alike: it answers in JSON, decodes a small body, and says who asks."""

from __future__ import annotations

from typing import TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from chappe.engines.contract.fleet import ACT, Fleet
from chappe.errors import InvalidMessage
from chappe.messages.codec import encode_json
from chappe.roles import Caller
from chappe.web.access import CALLER

T = TypeVar("T")


def answer(value: object, status: int = 200) -> Response:
    """Return a response of JSON."""
    return Response(encode_json(value), status, media_type="application/json")


async def wanted(request: Request, kind: type[T]) -> T:
    """Return what the body asks for. Raises `InvalidMessage`."""
    try:
        return msgspec.json.decode(await request.body(), type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidMessage("the body", {"$": str(error)}) from None


def caller_of(request: Request) -> Caller:
    """Return who asks."""
    return request.scope[CALLER]


def who(request: Request) -> str:
    """Return who asks, as the audit trail shows it."""
    return f"{caller_of(request).name}@http"


async def noted(store: Fleet, request: Request, verb: str, text: str) -> None:
    """Have what was done be in the audit trail, with who asked for it."""
    await store.desire(f"{ACT}{verb}", text, who(request))


def number_in(request: Request, name: str, default: int, *, most: int = 2**63 - 1) -> int:
    """Return a number of the query, or the default. Raises `InvalidMessage`."""
    text = request.query_params.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdecimal() and len(text) < 20 and int(text) <= most):
        raise InvalidMessage("the query", {name: f"it is a number of at most {most}"})
    return int(text)
