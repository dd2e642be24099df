"""The OpenAPI 3.1 document, written from the command classes."""

from __future__ import annotations

import inspect
from typing import Any

from chappe.app import App
from chappe.messages.message import Command, Message
from chappe.messages.schema import components

_PROBLEM = {
    "description": "What was wrong (RFC 9457).",
    "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
}
_ERRORS = ("400", "401", "403", "413", "415", "421", "422", "431", "503")


def document(app: App, version: str) -> dict[str, Any]:
    """Return the document of an application's gateway."""
    commands = app.registry.commands()
    schemas, definitions = components(commands)
    paths: dict[str, Any] = {f"/commands/{c.__spec__.name}": {"post": _command(c, s)} for c, s in zip(commands, schemas, strict=True)}
    paths["/messages/{id}"] = {"get": _message()}
    paths["/livez"] = {"get": _health("livez", "Whether this process turns.")}
    paths["/readyz"] = {"get": _health("readyz", "Whether commands can be stored now.")}
    secured = schemes_of(app)
    return {
        "openapi": "3.1.0",
        "info": {"title": app.name, "version": version, "description": "Commands of this application, taken by Chappe."},
        "paths": paths,
        "components": {"schemas": {**definitions, **_SCHEMAS}, **secured},
        **({"security": [{"token": []}]} if secured else {}),
    }


def schemes_of(app: App) -> dict[str, Any]:
    """Return the component that says how to send the token, where there is one."""
    return (
        {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}}
        if app.settings.token or app.settings.tokens or app.settings.token_secret
        else {}
    )


def summary_of(message: type[Message]) -> str:
    """Return the first line of a message's docstring, or its name where it has none."""
    return (_doc_of(message) or message.__name__).splitlines()[0]


def _doc_of(message: type[Message]) -> str | None:
    return inspect.getdoc(message) if message.__doc__ else None


def _command(command: type[Command], schema: dict[str, Any]) -> dict[str, Any]:
    doc = _doc_of(command)
    accepted = {
        "description": "Stored durably; it is handled soon.",
        "headers": {"Location": {"description": "Where to ask after it.", "required": True, "schema": {"type": "string"}}},
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Accepted"}}},
    }
    done = {"description": "Done, with its result.", "content": {"application/json": {"schema": {"$ref": "#/components/schemas/State"}}}}
    travels = not command.__spec__.inline
    return {
        "operationId": command.__spec__.name,
        "summary": summary_of(command),
        **({"description": doc} if doc else {}),
        "parameters": [
            {"name": "Idempotency-Key", "in": "header", "description": "The same key and body are taken once within 24 hours.",
             "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"}},
            {"name": "Prefer", "in": "header", "description": "wait=SECONDS: answer when it is done (RFC 7240).",
             "schema": {"type": "string"}},
        ] if travels else [],
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
        "responses": {**({"202": accepted} if travels else {}), "200": done, **dict.fromkeys((*_ERRORS, "409"), _PROBLEM)},
    }  # fmt: skip


def _message() -> dict[str, Any]:
    return {
        "operationId": "message",
        "summary": "Where a message is in its life",
        "parameters": [
            {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}},
            {"name": "Prefer", "in": "header", "schema": {"type": "string"}},
        ],
        "responses": {
            "200": {"description": "Its state.", "content": {"application/json": {"schema": {"$ref": "#/components/schemas/State"}}}},
            **dict.fromkeys(("401", "403", "404", "413", "415", "421", "431", "503"), _PROBLEM),
        },
    }


def _health(name: str, text: str) -> dict[str, Any]:
    answers = {"200": {"description": text, "content": {"application/json": {"schema": {"type": "object"}}}}}
    return {
        "operationId": name,
        "summary": text,
        "responses": {**answers, **dict.fromkeys(("401", "403", "413", "415", "421", "431", "503"), _PROBLEM)},
    }


_SCHEMAS: dict[str, Any] = {
    "Accepted": {
        "type": "object",
        "properties": {"id": {"type": "string"}, "outcome": {"enum": ["stored", "merged", "duplicate"]}},
        "required": ["id", "outcome"],
    },
    "State": {
        "type": "object",
        "properties": {
            "id": {"type": "string"}, "type": {"type": "string"}, "queue": {"type": "string"}, "result": {}, "error": {"type": "string"},
            "state": {"enum": ["delayed", "ready", "running", "done", "dead", "cancelled"]},
            "merged_into": {"type": "string"}, "seconds": {"type": "number"},
            "progress": {
                "type": "object",
                "properties": {"done": {"type": "integer"}, "total": {"type": "integer"}, "text": {"type": "string"}},
            },
        },
        "required": ["id", "type", "state"],
    },
    "Problem": {
        "type": "object",
        "properties": {
            "type": {"type": "string"}, "title": {"type": "string"}, "status": {"type": "integer"}, "detail": {"type": "string"},
            "errors": {"type": "array", "items": {
                "type": "object", "properties": {"path": {"type": "string"}, "detail": {"type": "string"}}, "required": ["path", "detail"],
            }},
        },
        "required": ["type", "title", "status"],
    },
}  # fmt: skip
