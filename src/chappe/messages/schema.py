"""The JSON Schema of messages, for OpenAPI, forms and foreign clients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from chappe.messages.message import Message


def components(messages: Sequence[type[Message]], ref: str = "#/components/schemas/{name}") -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return one schema (a reference) for each message, and the definitions they refer to."""
    schemas, definitions = msgspec.json.schema_components(messages, ref_template=ref)
    return list(schemas), definitions


def schema(message: type[Message]) -> dict[str, Any]:
    """Return the self-contained JSON Schema (2020-12) of one message."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **msgspec.json.schema(message)}
