"""The gateway: health, queues, and what is the same for every answer."""

import asyncio
from pathlib import Path

import httpx2
import pytest

from chappe import Settings
from chappe.engines.file.server import Engine
from chappe.engines.file.serving import serve
from chappe.web.gateway import gateway

from .shop import Open, make, of_this_user


async def test_live_and_ready(shop: Open) -> None:
    assert (await shop.client.get("/livez")).json() == {"status": "ok"}
    assert (await shop.client.get("/healthz")).json() == {"status": "ok"}
    ready = await shop.client.get("/readyz")
    assert ready.status_code == 200
    assert ready.json()["engine"] > 0


async def test_every_answer_forbids_sniffing_and_storing(shop: Open) -> None:
    for path in ("/livez", "/nowhere", "/openapi.json"):
        answer = await shop.client.get(path)
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"


async def test_a_method_that_is_not_allowed_is_405_naming_those_that_are(shop: Open) -> None:
    answer = await shop.client.get("/commands/order")
    assert answer.status_code == 405
    assert answer.headers["allow"] == "POST"


async def test_queues_are_listed_with_their_counts(shop: Open) -> None:
    await shop.client.post("/commands/invite", json={"address": "a"})
    queues = {q["name"]: q for q in (await shop.client.get("/api/queues")).json()["queues"]}
    assert queues["invites"]["ready"] == 1
    assert set(queues) == {"orders", "refresh", "invites", "failing", "shop.on.sold"}


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/commands/invite"), ("GET", "/messages/x"), ("GET", "/readyz"), ("GET", "/metrics"), ("GET", "/api/queues")],
)
async def test_while_the_engine_is_away_every_answer_is_503_with_retry_after(tmp_path: Path, method: str, path: str) -> None:
    app = make()
    app.configure(Settings(broker=f"sqlite:///{tmp_path}/chappe.db", deadline=0.3), role="gateway", may_own_file=False)
    transport = httpx2.ASGITransport(app=of_this_user(gateway(app)))
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
        answer = await client.request(method, path, json={"address": "a"} if method == "POST" else None)
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) >= 1
        assert answer.headers["content-type"] == "application/problem+json"
        assert (await client.get("/livez")).status_code == 200
        assert (await client.post("/commands/add", json={"a": 1})).status_code == 200, "what needs no engine goes on"
    await app.aclose()


async def test_when_the_engine_comes_back_so_does_the_gateway(tmp_path: Path) -> None:
    path, app = tmp_path / "chappe.db", make()
    app.configure(Settings(broker=f"sqlite:///{path}", deadline=3.0), role="gateway", may_own_file=False)
    transport = httpx2.ASGITransport(app=of_this_user(gateway(app)))
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
        for _ in range(2):
            engine = Engine(path, grace=0.0)
            serving = asyncio.ensure_future(serve(path, engine=engine))
            assert (await client.post("/commands/invite", json={"address": "a"})).status_code == 202
            for connection in engine.connections:
                connection.abort()  # as the end of its process does
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)
    await app.aclose()


async def test_a_wrong_address_or_method_says_what_would_be_right(shop: Open) -> None:
    nowhere, wrong = await shop.client.get("/nowhere"), await shop.client.get("/commands/order")
    assert (nowhere.status_code, nowhere.json()["detail"]) == (404, "what there is stands in /openapi.json")
    assert (wrong.status_code, wrong.json()["detail"], wrong.headers["allow"]) == (405, "taken here: POST", "POST")
