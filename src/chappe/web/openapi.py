"""The OpenAPI 3.1 document, written from the command classes; what is the same for every application is in `openapi.json`."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from chappe.app import App
from chappe.messages.message import Command, Message
from chappe.web.api.operations import Operation

_ALWAYS: Final = Path(__file__).parent / "openapi.json"
_ERRORS: Final = ("400", "401", "403", "409", "413", "415", "421", "422", "431", "503")
_ERRORS_OF_API: Final = ("400", "401", "403", "404", "421", "422", "431", "503")
OF_MESSAGES: Final = "#/components/schemas/{name}"
_REFERENCE: Final = "#/components/schemas/api.{name}"  # no class of an application has such a name


def document(app: App, version: str, operations: Sequence[Operation] = ()) -> dict[str, Any]:
    """Return the document of an application's gateway, with the operations of the API."""
    found: dict[str, Any] = json.loads(_ALWAYS.read_bytes())
    found["info"] |= {"title": app.name, "version": version}
    commands = app.registry.commands()
    schemas, definitions = msgspec.json.schema_components(commands, ref_template=OF_MESSAGES)
    found["components"]["schemas"] = {**definitions, **found["components"]["schemas"]}
    found["paths"] |= {f"/commands/{c.__spec__.name}": {"post": _command(c, s)} for c, s in zip(commands, schemas, strict=True)}
    kinds = [kind for one in operations for kind in (one.answers, one.takes, *one.query.values())]
    schemas, definitions = _plain(*msgspec.json.schema_components(kinds, ref_template=_REFERENCE))
    found["components"]["schemas"] = {**definitions, **found["components"]["schemas"]}
    for one in operations:
        of, schemas = schemas[: 2 + len(one.query)], schemas[2 + len(one.query) :]
        path = re.sub(r"{(\w+):\w+}", r"{\1}", one.path)
        found["paths"].setdefault(path, {})[one.method.lower()] = _operation(one, path, *of)
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


def _plain(schemas: Sequence[Any], definitions: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Return schemas under names that say what they are, not in which module."""
    names = {name: f"api.{re.sub(r'^chappe[.]web[.](api[.])?', '', name).replace('_', '')}" for name in definitions}
    text = msgspec.json.encode([schemas, list(definitions.values())]).decode()
    for name, short in names.items():
        text = text.replace(f'/schemas/api.{name}"', f'/schemas/{short}"')
    found, bodies = msgspec.json.decode(text)
    return found, dict(zip(names.values(), bodies, strict=True))


def _operation(operation: Operation, path: str, answer: Any, body: Any, *query: Any) -> dict[str, Any]:
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "integer" if f"{{{name}:int}}" in operation.path else "string"}}
        for name in re.findall(r"{(\w+)}", path)
    ] + [{"name": name, "in": "query", "schema": schema} for name, schema in zip(operation.query, query, strict=True)]
    media = "text/event-stream" if path == "/api/changes" else "application/json"
    content = {media: {"schema": {"type": "object"} if operation.answers is None else answer}}
    problem = {"$ref": "#/components/responses/Problem"}
    return {
        "operationId": f"{operation.method.lower()}{re.sub(r'[^a-z]+', '_', path)}".rstrip("_"),
        "summary": operation.summary,
        "description": f"It needs the permission {' or '.join(operation.need.split())}.",
        "parameters": parameters,
        **({"requestBody": {"required": True, "content": {"application/json": {"schema": body}}}} if operation.takes else {}),
        "responses": {"200": {"description": "Done.", "content": content}, **dict.fromkeys(_ERRORS_OF_API, problem)},
    }
