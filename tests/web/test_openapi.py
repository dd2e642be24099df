"""The OpenAPI document, and the gateway held against it by schemathesis."""

import asyncio
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
import uvicorn
from hypothesis import HealthCheck, given, settings
from openapi_spec_validator import OpenAPIV31SpecValidator
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from chappe import Settings
from chappe.engines.file.server import Engine
from chappe.web.gateway import gateway
from chappe.web.openapi import document

from .shop import TOKEN, Open, make, working

EXAMPLES = int(os.environ.get("CHAPPE_FUZZ_EXAMPLES", "40"))
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_headers_conformance, response_schema_conformance]
COMMANDS = ["POST /commands/order", "POST /commands/refresh", "POST /commands/invite", "POST /commands/add"]
OPERATIONS = [("GET /messages/{id}", GenerationMode.POSITIVE), *((command, mode) for command in COMMANDS for mode in GenerationMode)]


def test_the_document_is_valid_openapi() -> None:
    app = make()
    app.configure(Settings(token=TOKEN))
    OpenAPIV31SpecValidator(document(app, "1.0")).validate()


async def test_the_document_describes_each_command_from_its_class(shop: Open) -> None:
    found = (await shop.client.get("/openapi.json")).json()
    assert found["info"]["title"] == "shop"
    assert {p for p in found["paths"] if p.startswith("/commands/")} == {
        f"/commands/{name}" for name in ("order", "refresh", "invite", "add", "divide", "fail")
    }
    order = found["paths"]["/commands/order"]["post"]
    assert (order["operationId"], order["summary"]) == ("order", "Sell something.")
    assert "second paragraph" in order["description"]
    assert order["requestBody"]["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/Order"}
    assert found["components"]["schemas"]["Order"]["required"] == ["customer", "lines"]
    assert "202" in order["responses"]
    assert "202" not in found["paths"]["/commands/add"]["post"]["responses"], "it is handled while the request waits"


async def test_the_document_describes_the_api_with_what_each_route_takes_answers_and_needs(shop: Open) -> None:
    found = (await shop.client.get("/openapi.json")).json()
    OpenAPIV31SpecValidator(found).validate()
    operation = found["paths"]["/api/failures/{fingerprint}"]["post"]
    assert operation["requestBody"]["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/api.ActionOnLetters"}
    assert operation["responses"]["200"]["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/api.ActedOnLetters"}
    assert operation["description"] == "It needs the permission act."
    assert found["paths"]["/api/letters/{number}"]["get"]["parameters"][0]["schema"] == {"type": "integer"}
    asked = {one["name"]: one["schema"] for one in found["paths"]["/api/messages"]["get"]["parameters"]}
    assert (asked["limit"], asked["state"]["anyOf"][0]["enum"]) == (
        {"type": "integer", "minimum": 0, "maximum": 500}, ["dead", "delayed", "ready", "running"],
    )  # fmt: skip
    assert {f"{method.upper()} {path}" for path, methods in found["paths"].items() for method in methods if path.startswith("/api/")} >= {
        "GET /api/overview", "GET /api/me", "POST /api/schedules/{name}", "GET /api/history", "GET /api/alerts",
    }  # fmt: skip
    assert all(name.startswith("api.") or name[0].isupper() for name in found["components"]["schemas"])


def test_a_token_is_declared_where_one_is_set_and_only_there() -> None:
    app = make()
    app.configure(Settings(token=TOKEN))
    assert document(app, "1")["security"] == [{"token": []}]
    app.configure(Settings())
    assert "security" not in document(app, "1")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The shop behind a real uvicorn on loopback, with a worker, in a thread."""
    folder: Path = tmp_path_factory.mktemp("shop")
    ready, addresses = threading.Event(), list[str]()
    stop: list[Any] = []

    async def main() -> None:
        engine, app = Engine(folder / "chappe.db", grace=0.0), make()
        app.configure(Settings(broker=f"sqlite:///{folder}/chappe.db"), engine=engine)
        config = uvicorn.Config(gateway(app), port=0, log_config=None, access_log=False, lifespan="off", http="httptools", ws="none")

        class Server(uvicorn.Server):
            async def startup(self, sockets: Any = None) -> None:
                await super().startup(sockets)
                addresses.append(f"http://127.0.0.1:{self.servers[0].sockets[0].getsockname()[1]}")
                ready.set()

        serving = Server(config)
        stop.append(serving)
        async with working(app, folder):
            await serving.serve()
        await app.aclose()
        engine.close()

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    assert ready.wait(60)
    yield addresses[0]
    stop[0].should_exit = True
    thread.join(60)


@pytest.mark.parametrize(("operation", "mode"), OPERATIONS)
def test_schemathesis_finds_no_server_error_and_no_undocumented_answer(server: str, operation: str, mode: GenerationMode) -> None:
    """Requests that fit the document and requests that do not; `CHAPPE_FUZZ_EXAMPLES` says how many of each operation."""
    method, path = operation.split(" ")
    described = schemathesis.openapi.from_url(f"{server}/openapi.json")
    strategy = described[path][method].as_strategy(generation_mode=mode)

    @settings(
        max_examples=EXAMPLES // sum(1 for other, _ in OPERATIONS if other == operation),
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
    )
    @given(case=strategy)
    def answer(case: Any) -> None:
        response = case.call()
        case.validate_response(response, checks=CHECKS)

    answer()
