"""Errors as `application/problem+json` (RFC 9457)."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from chappe import errors
from chappe.errors import ChappeError
from chappe.messages.codec import encode_json

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER = "1"

_STATUS: dict[type[ChappeError], tuple[int, str]] = {
    errors.InvalidMessage: (422, "The message is not valid"),
    errors.UnknownMessage: (404, "No such command"),
    errors.NotFound: (404, "Not found"),
    errors.KeyReused: (409, "The idempotency key came with another body before"),
    errors.CommandFailed: (422, "The command failed"),
    errors.StorageFull: (503, "There is no room to store the message"),
    errors.Unconfirmed: (503, "It is not known whether the message was stored"),
    errors.BrokerUnavailable: (503, "The broker does not answer"),
    errors.Unroutable: (422, "No queue takes this message"),
    errors.Rejected: (503, "The broker refused the message"),
    errors.BrokerError: (503, "The broker refuses"),
    errors.DefinitionError: (503, "The application is not set up for this"),
}


def problem(status: int, title: str, detail: str = "", *, headers: dict[str, str] | None = None, **more: Any) -> Response:
    """Return the response of one problem."""
    slug = title.lower().replace(" ", "-")
    body: dict[str, Any] = {"type": f"urn:chappe:problem:{slug}", "title": title, "status": status, **more}
    if detail:
        body["detail"] = detail
    return Response(encode_json(body), status, headers, MEDIA_TYPE)


def problem_of(error: ChappeError) -> Response:
    """Return the response that says what an error of ours means to a client."""
    kind = next((k for k in type(error).__mro__ if k in _STATUS), None)
    if kind is None:
        return problem(500, "The gateway failed", str(error))
    status, title = _STATUS[kind]
    headers = {"Retry-After": RETRY_AFTER} if status == 503 else None
    if isinstance(error, errors.InvalidMessage):
        listed = [{"path": path, "detail": fault} for path, fault in error.faults.items()]
        return problem(status, title, str(error), headers=headers, errors=listed)
    if isinstance(error, errors.CommandFailed):
        return problem(status, title, str(error), headers=headers, id=error.message_id, state=error.state)
    return problem(status, title, str(error), headers=headers)
