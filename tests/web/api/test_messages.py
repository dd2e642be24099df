"""Messages over HTTP: lists with filters, page by page, and one message with its life and why it does not run."""

import asyncio
from typing import Any

import pytest

from chappe.engines.file import looking
from chappe.engines.file.running_tables import folder_of
from chappe.messages.envelope import Envelope, Publication
from chappe.worker.running_table import RunningTable

from ..shop import Open


async def listed(shop: Open, **query: Any) -> list[dict[str, Any]]:
    """Return a whole list, page by page."""
    found: list[dict[str, Any]] = []
    cursor: str | None = ""
    while cursor is not None:
        answer = (await shop.client.get("/api/messages", params={**query, "cursor": cursor})).json()
        found += answer["messages"]
        cursor = answer["cursor"]
    return found


async def sent(shop: Open, command: str, body: dict[str, Any]) -> str:
    return (await shop.client.post(f"/commands/{command}", json=body)).json()["id"]


async def reasons(shop: Open, message: str) -> list[str]:
    shown = (await shop.client.get(f"/api/messages/{message}")).json()
    return [reason["reason"] for place in shown["places"] for reason in place["why"]]


async def test_lists_hold_what_was_asked_for_whatever_the_size_of_their_pages(shop: Open) -> None:
    ids = [await sent(shop, "invite", {"address": f"a{n}"}) for n in range(5)]
    orders = [await sent(shop, "order", {"customer": name, "lines": []}) for name in ("Ada", "Bob")]
    for limit in (1, 2, 50):
        assert [one["id"] for one in await listed(shop, queue="invites", limit=limit)] == ids
        assert {one["id"] for one in await listed(shop, limit=limit)} == {*ids, *orders}
    assert [one["id"] for one in await listed(shop, text="Bob")] == [orders[1]]
    assert [one["id"] for one in await listed(shop, id=ids[3])] == [ids[3]]
    assert await listed(shop, state="dead") == []


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("state=zombie", 422), ("queue=nowhere", 404), ("limit=501", 422), ("limit=x", 422), ("cursor=x", 422), ('cursor=["q","ready","x"]', 422),
        ('cursor=["invites","ready","x"]', 404),
    ],
)  # fmt: skip
async def test_a_query_that_means_nothing_is_refused_by_a_sentence(shop: Open, query: str, status: int) -> None:
    answer = await shop.client.get(f"/api/messages?{query}")
    assert (answer.status_code, bool(answer.json()["detail"])) == (status, True)


async def test_a_message_is_shown_with_its_body_and_why_it_waits_and_later_with_its_result(shop: Open) -> None:
    message = await sent(shop, "order", {"customer": "Ada", "lines": []})
    shown = (await shop.client.get(f"/api/messages/{message}")).json()
    (place,) = shown["places"]
    assert (place["state"], place["body"]["customer"], place["queue"]) == ("ready", "Ada", "orders")
    assert await reasons(shop, message) == ["no_worker"]
    await shop.client.post("/api/queues/orders", json={"paused": True})
    assert await reasons(shop, message) == ["paused", "no_worker"]
    await shop.client.post("/api/queues/orders", json={"paused": False})
    async with shop.working():
        store = (await shop.app.connection()).store
        await store.result(message, 60.0)
    ended = (await shop.client.get(f"/api/messages/{message}")).json()
    assert (ended["places"], ended["tracked"]["state"], ended["tracked"]["result"]) == ([], "done", {"customer": "Ada", "lines": 0})


async def test_a_dead_letter_is_shown_with_its_reason_and_an_unknown_message_is_404(shop: Open) -> None:
    message = await sent(shop, "fail", {"how": "badly"})
    async with shop.working():
        await (await shop.app.connection()).store.result(message, 60.0)
    shown = (await shop.client.get(f"/api/messages/{message}")).json()
    assert [(place["state"], place["why"][0]["reason"]) for place in shown["places"]] == [("dead", "dead")]
    assert (await shop.client.get("/api/messages/nothing")).status_code == 404


async def test_a_message_of_a_type_that_this_release_does_not_know_says_so(shop: Open) -> None:

    connection = await shop.app.connection()
    await connection.broker.publish([Publication(Envelope("strange", "shop.strange", b"{}"), "orders")])
    assert await reasons(shop, "strange") == ["no_handler", "no_worker"]


async def test_many_are_looked_through_in_bounded_steps(shop: Open, monkeypatch: pytest.MonkeyPatch) -> None:

    monkeypatch.setattr(looking, "_LOOKED_AT", 7)
    ids = await asyncio.gather(*(sent(shop, "invite", {"address": f"a{n}"}) for n in range(30)))
    assert [one["id"] for one in await listed(shop, text='"a29"')] == [ids[29]]
    assert await reasons(shop, ids[29]) == ["no_worker"]


async def test_what_a_process_has_and_has_not_begun_says_so(shop: Open) -> None:
    table = RunningTable(folder_of(shop.folder / "chappe.db"), 1)
    broker = (await shop.app.connection({"table": table.path.name})).broker
    begun, waits = [await sent(shop, "invite", {"address": name}) for name in ("ada", "bob")]
    async with broker.consume(["invites"], prefetch=2) as consumer:
        first, _ = await consumer.receive(2, 60.0)
        table.begin(0, first.tag)
        assert {one["id"]: one.get("begun", True) for one in await listed(shop)} == {begun: True, waits: False}
        (place,) = (await shop.client.get(f"/api/messages/{waits}")).json()["places"]
        assert (place["begun"], place["why"][0]["reason"]) == (False, "busy")
    table.close()
