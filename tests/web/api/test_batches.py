"""Batches over HTTP: listed with how far they are, and their dead letters retried."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from chappe import App, Command, Reject, Retry
from chappe.batches import Batches

from ...waiting import PATIENCE
from ..shop import Open, opened

GONE = {2, 5, 11}


class Fetch(Command, queue="fetches", retry=Retry(1)):
    article: int


def make() -> App:
    app = App("reader")
    app.extra = Batches(app)  # type: ignore[attr-defined] # pyright: ignore[reportAttributeAccessIssue]

    @app.handles(Fetch)
    async def fetch(command: Fetch) -> None:
        if command.article in GONE:
            raise Reject(f"article {command.article} is gone")

    return app


@pytest.fixture
async def reader(tmp_path: Path) -> AsyncIterator[Open]:
    async with opened(tmp_path, make=make) as reader:
        yield reader


async def send(reader: Open, *articles: int) -> str:
    batches: Batches = reader.app.extra  # type: ignore[attr-defined] # pyright: ignore[reportAttributeAccessIssue]
    return await batches.asend([Fetch(article=one) for one in articles])


async def ended(reader: Open) -> None:
    store = (await reader.app.connection()).store
    async with reader.working(), asyncio.timeout(PATIENCE):
        while any(queue.ready or queue.running for queue in (await store.overview()).queues):
            await asyncio.sleep(0.01)


async def got(reader: Open, path: str, **query: Any) -> dict[str, Any]:
    answer = await reader.client.get(path, params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_w17_batches_are_listed_the_latest_first_with_how_far_they_are(reader: Open) -> None:
    first = await send(reader, *range(12))
    await ended(reader)
    await reader.app.asend(Fetch(article=1))
    second = await send(reader, 1, 3)
    found = (await got(reader, "/api/batches"))["batches"]
    assert [one["id"] for one in found] == [second, first]
    assert [(one["state"], one["total"], one["waiting"], one["done"], one["dead"]) for one in found] == [
        ("running", 2, 2, 0, 0),
        ("over", 12, 0, 9, 3),
    ]
    assert {(one["type"], one["queue"]) for one in found} == {("fetch", "fetches")}
    assert (found[0]["rate"], found[0]["left"], found[1]["left"]) == (0.0, None, None)
    page = await got(reader, "/api/batches", limit=1)
    assert [one["id"] for one in page["batches"]] == [second]
    assert [one["id"] for one in (await got(reader, "/api/batches", limit=1, cursor=page["cursor"]))["batches"]] == [first]


async def test_w19_the_failed_messages_of_a_batch_are_listed_and_retried_and_nothing_else_is(
    reader: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch, other = await send(reader, *range(12)), await send(reader, 2, 3)
    await ended(reader)
    path = f"/api/batches/{batch}"
    page = await got(reader, path, limit=2)
    assert ([one["error"] for one in page["letters"]], page["letter_count"]) == (["article 2 is gone", "article 5 is gone"], 3)
    assert [one["id"] for one in (await got(reader, path, limit=2, cursor=page["cursor"]))["letters"]] == [f"{batch}.11"]
    assert (await reader.client.post(path, json={"action": "resolve"})).status_code == 422
    monkeypatch.setattr("tests.web.api.test_batches.GONE", set[int]())
    assert (await reader.client.post(path, json={"action": "retry"})).json() == {"done": 3, "left": 0, "refused": [], "cursor": None}
    await ended(reader)
    told = await got(reader, path)
    assert (told["batch"]["state"], told["batch"]["done"], told["batch"]["dead"], told["letters"]) == ("over", 12, 0, [])
    assert (await got(reader, f"/api/batches/{other}"))["batch"]["dead"] == 1
    entry = (await got(reader, "/api/audit"))["entries"][0]
    assert (entry["what"], entry["value"]) == ("act:retry", f"3 dead letters of batch {batch}")


async def test_what_is_no_batch_is_404(reader: Open) -> None:
    for unknown in ("nobody", "01a228e0-3375-713b-b27a-48e416fdffe8.7"):
        assert (await reader.client.get(f"/api/batches/{unknown}")).status_code == 404
        assert (await reader.client.post(f"/api/batches/{unknown}", json={"action": "retry"})).status_code == 404
