"""The AsyncAPI document of commands and events."""

from typing import Any

import jsonschema

from chappe import Settings
from chappe.web.asyncapi import document

from .shop import TOKEN, Open, make


def refs(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [value["$ref"]] if "$ref" in value else [ref for part in value.values() for ref in refs(part)]
    return [ref for part in value for ref in refs(part)] if isinstance(value, list) else []


def described(**settings: Any) -> dict[str, Any]:
    app = make()
    app.configure(Settings(**settings))
    return document(app, "1.0")


def at(described: dict[str, Any], ref: str) -> Any:
    for part in ref.removeprefix("#/").split("/"):
        described = described[part]
    return described


def test_m5_each_command_and_event_is_described_and_every_reference_leads_somewhere() -> None:
    found = described(token=TOKEN)
    assert {"order", "refresh", "sold"} <= found["components"]["messages"].keys()
    assert found["operations"]["take.order"]["action"] == "receive"
    assert found["operations"]["tell.sold"]["action"] == "send"
    assert all(at(found, ref) for ref in refs(found))
    assert "security" in found["servers"]["gateway"]
    assert "security" not in described()["servers"]["gateway"]


def test_m5_what_is_sent_and_heard_fits_the_payloads() -> None:
    found = described()
    line = {"article": "vase", "count": 1}
    for body, fits in (({"customer": "Ada", "lines": [line]}, True), ({"customer": "", "lines": [line]}, False)):
        payload = found["components"]["messages"]["order"]["payload"]
        validator = jsonschema.Draft202012Validator({**payload, "components": found["components"]})
        assert validator.is_valid({"command": "order", "body": body, "ref": 1}) is fits


async def test_the_gateway_serves_it(shop: Open) -> None:
    answer = await shop.client.get("/asyncapi.json")
    assert answer.status_code == 200
    assert answer.json()["asyncapi"] == "3.0.0"
