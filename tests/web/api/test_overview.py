"""The overview over HTTP, asked once or watched, and what an operator changes there."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
import uvicorn

from chappe.web.gateway import VERSION
from chappe.web.http_protocol import HttpProtocol

from ...waiting import PATIENCE
from ..shop import Open


@contextlib.asynccontextmanager
async def listening(shop: Open) -> AsyncIterator[str]:
    """Serve the shop on a port until it was asked to end, and has."""
    config = uvicorn.Config(
        shop.asgi, host="127.0.0.1", port=0, http=HttpProtocol, lifespan="off", log_config=None, timeout_graceful_shutdown=60
    )
    server = uvicorn.Server(config)
    running = asyncio.ensure_future(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        await running


async def overviews(lines: AsyncIterator[str]) -> AsyncIterator[dict[str, Any]]:
    async for line in lines:
        if line.startswith("data: "):
            yield json.loads(line[6:])


def queue_of(overview: dict[str, Any], name: str) -> dict[str, Any]:
    return next(queue for queue in overview["queues"] if queue["name"] == name)


async def test_the_overview_tells_what_is_declared_what_waits_and_who_is_connected(shop: Open) -> None:
    await shop.client.post("/commands/invite", json={"address": "a"})
    seen = (await shop.client.get("/api/overview")).json()
    assert (seen["application"], seen["version"], seen["intake"]) == ("shop", VERSION, "open")
    assert queue_of(seen, "invites")["ready"] == 1
    assert {"engine", "exchanges", "hosts", "clients", "now"} <= set(seen)


async def test_who_watches_is_told_of_each_change_and_goes_when_the_gateway_ends(shop: Open) -> None:
    async with listening(shop) as url, httpx2.AsyncClient(timeout=PATIENCE, trust_env=False) as http:
        async with http.stream("GET", f"{url}/api/changes") as first, http.stream("GET", f"{url}/api/changes") as second:
            told = [overviews(stream.aiter_lines()) for stream in (first, second)]
            for one in told:
                assert queue_of(await anext(one), "invites")["ready"] == 0
            await shop.client.post("/api/queues/invites", json={"paused": True})
            for one in told:
                async for overview in one:
                    if queue_of(overview, "invites").get("paused"):
                        break
        async with http.stream("GET", f"{url}/api/changes") as late:
            assert queue_of(await anext(overviews(late.aiter_lines())), "invites")["paused"] is True


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/api/queues/nowhere", {"paused": True}, 404),
        ("/api/queues/invites", {"paused": 1}, 422),
        ("/api/queues/invites", {}, 422),
        ("/api/intake", {"paused": True, "more": 1}, 422),
        ("/api/pools/nowhere", {"processes": "3"}, 404),
        ("/api/pools/default", {"processes": "many"}, 422),
        ("/api/tenants/ada", {"weight": 0}, 422),
        ("/api/messages/unknown/cancel", {}, 404),
    ],
)
async def test_what_cannot_be_done_is_refused_by_a_sentence_and_changes_nothing(shop: Open, path: str, body: Any, status: int) -> None:
    answer = await shop.client.post(path, json=body)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert answer.json()["detail"]
    assert await (await shop.app.connection()).store.desired(every=True) == []


async def test_what_an_operator_wants_is_remembered_with_who_said_it(shop: Open) -> None:
    for path, body in (
        ("/api/queues/invites", {"paused": True}), ("/api/intake", {"paused": True}), ("/api/pools/default", {"processes": "2..4"}),
        ("/api/tenants/ada/b", {"weight": 3}), ("/api/reload", {}), ("/api/queues/invites", {"paused": False}),
    ):  # fmt: skip
        assert (await shop.client.post(path, json=body)).status_code == 200
    said = [(one.what, one.value) for one in await (await shop.app.connection()).store.desired(every=True)]
    assert said == [
        ("queue:invites", "paused"), ("intake", "paused"), ("pool:default", "2..4"), ("tenant:ada/b", "3.0"), ("reload", None),
        ("queue:invites", None),
    ]  # fmt: skip
    refused = await shop.client.post("/commands/invite", json={"address": "a"})
    assert (refused.status_code, refused.json()["title"]) == (503, "The intake is paused")


async def test_a_message_that_waits_is_cancelled(shop: Open) -> None:
    sent = (await shop.client.post("/commands/invite", json={"address": "a"})).json()["id"]
    assert (await shop.client.post(f"/api/messages/{sent}/cancel")).json() == {"state": "ready"}
    assert await shop.stored("invites") == 0
