"""The OpenAPI 3.1 document, written from the command classes; what is the same for every application is in `openapi.json`."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any, Final

from chappe.app import App
from chappe.messages.message import Command, Message
from chappe.messages.schema import components

_ALWAYS: Final = Path(__file__).parent / "openapi.json"
_ERRORS: Final = ("400", "401", "403", "409", "413", "415", "421", "422", "431", "503")


def document(app: App, version: str) -> dict[str, Any]:
    """Return the document of an application's gateway."""
    found: dict[str, Any] = json.loads(_ALWAYS.read_bytes())
    found["info"] |= {"title": app.name, "version": version}
    commands = app.registry.commands()
    schemas, definitions = components(commands)
    found["components"]["schemas"] = {**definitions, **found["components"]["schemas"]}
    found["paths"] |= {f"/commands/{c.__spec__.name}": {"post": _command(c, s)} for c, s in zip(commands, schemas, strict=True)}
    if secured := schemes_of(app):
        found["components"] |= secured
        found["security"] = [{"token": []}]
    return found


def schemes_of(app: App) -> dict[str, Any]:
    """Return the component that says how to send the token, where there is one."""
    settings = app.settings
    is_secured = settings.token or settings.tokens or settings.token_secret
    return {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}} if is_secured else {}


def summary_of(message: type[Message]) -> str:
    """Return the first line of a message's docstring, or its name where it has none."""
    return (_doc_of(message) or message.__name__).splitlines()[0]


def _doc_of(message: type[Message]) -> str | None:
    return inspect.getdoc(message) if message.__doc__ else None


def _command(command: type[Command], schema: dict[str, Any]) -> dict[str, Any]:
    doc, travels = _doc_of(command), not command.__spec__.inline
    answers = {"202": "Accepted"} if travels else {}
    return {
        "operationId": command.__spec__.name,
        "summary": summary_of(command),
        **({"description": doc} if doc else {}),
        "parameters": [{"$ref": f"#/components/parameters/{name}"} for name in ("Idempotency-Key", "Prefer") if travels],
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
        "responses": {
            status: {"$ref": f"#/components/responses/{name}"}
            for status, name in {**answers, "200": "Done", **dict.fromkeys(_ERRORS, "Problem")}.items()
        },
    }
