"""The AsyncAPI 3.0 document, written from the message classes: what may be sent over the WebSocket, and what is heard."""

from __future__ import annotations

from typing import Any

import msgspec

from chappe.app import App
from chappe.messages.message import Command, Event, Message
from chappe.settings import place_of
from chappe.web.openapi import OF_MESSAGES, schemes_of, summary_of


def document(app: App, version: str) -> dict[str, Any]:
    """Return the document of an application's events and commands."""
    commands = app.registry.commands()
    events = app.registry.events()
    schemas, definitions = msgspec.json.schema_components([*commands, *events], ref_template=OF_MESSAGES)
    bodies = dict(zip([*commands, *events], schemas, strict=True))
    messages = {command.__spec__.name: _asked(command, bodies[command]) for command in commands}
    messages |= {event.__spec__.name: _heard(event, bodies[event]) for event in events}
    secured = schemes_of(app)
    return {
        "asyncapi": "3.0.0",
        "info": {"title": app.name, "version": version, "description": "Commands and events of this application, carried by Chappe."},
        "defaultContentType": "application/json",
        "servers": {"gateway": _server(app, secured=bool(secured))},
        "channels": {"events": _channel(list(messages))},
        "operations": {
            **{f"take.{command.__spec__.name}": _operation("receive", command) for command in commands},
            **{f"tell.{event.__spec__.name}": _operation("send", event) for event in events},
        },
        "components": {"messages": messages, "schemas": definitions, **secured},
    }


def _server(app: App, *, secured: bool) -> dict[str, Any]:
    server: dict[str, Any] = {"host": place_of(app.settings.host, app.settings.port), "protocol": "ws"}
    return {**server, "security": [{"$ref": "#/components/securitySchemes/token"}]} if secured else server


def _channel(messages: list[str]) -> dict[str, Any]:
    pattern = {"type": "string", "default": "#", "description": "Routing keys: * is one word, # any number."}
    since = {"type": "string", "default": "now", "description": "A seq, a span like 15m, a time (ISO 8601), or now."}
    query = {"type": "object", "properties": {"pattern": pattern, "since": since}}
    return {
        "address": "/events",
        "description": "The archive from any position on, then what comes; see /openapi.json for the same commands over HTTP.",
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in messages},
        "bindings": {"ws": {"method": "GET", "query": query, "bindingVersion": "0.1.0"}},
    }


def _operation(action: str, message: type[Message]) -> dict[str, Any]:
    return {
        "action": action,
        "channel": {"$ref": "#/channels/events"},
        "messages": [{"$ref": f"#/channels/events/messages/{message.__spec__.name}"}],
    }


def _asked(command: type[Command], body: dict[str, Any]) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "command": {"const": command.__spec__.name}, "body": body, "ref": {"type": ["string", "integer", "null"]},
        "key": {"type": ["string", "null"], "description": "Said again with the same key, it is taken once."},
        "wait": {"type": ["number", "null"], "description": "Seconds to wait for its result."},
    }  # fmt: skip
    return _message(command, {"type": "object", "properties": fields, "required": ["command", "body"], "additionalProperties": False})


def _heard(event: type[Event], body: dict[str, Any]) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "seq": {"type": "integer"}, "at": {"type": "number"}, "exchange": {"type": "string"}, "key": {"type": "string"},
        "id": {"type": "string"}, "type": {"const": event.__spec__.name}, "body": body,
    }  # fmt: skip
    return _message(event, {"type": "object", "properties": fields, "required": list(fields)})


def _message(message: type[Message], payload: dict[str, Any]) -> dict[str, Any]:
    return {"name": message.__spec__.name, "title": summary_of(message), "payload": payload}
