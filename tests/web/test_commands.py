"""Commands over HTTP."""

import asyncio
import uuid
from pathlib import Path
from typing import Any

import apsw
import msgspec
import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chappe import Command

from ..waiting import auntil
from .shop import Open, opened

ORDER: dict[str, Any] = {"customer": "Ada", "lines": [{"article": "pen", "count": 2}]}


async def test_d9_a_command_is_answered_with_202_before_it_is_handled_and_with_where_to_ask_after_it(shop: Open) -> None:
    answer = await shop.client.post("/commands/order", json=ORDER)
    assert answer.status_code == 202
    body = answer.json()
    assert body["outcome"] == "stored"
    assert answer.headers["location"] == f"/messages/{body['id']}"
    assert await shop.stored("orders") == 1
    state = (await shop.client.get(answer.headers["location"])).json()
    assert (state["id"], state["type"], state["state"], state["queue"]) == (body["id"], "order", "ready", "orders")


async def test_d8_202_is_sent_only_after_the_commit(tmp_path: Path) -> None:
    """Another connection to the file sees the message at the moment when the answer begins."""
    seen: list[int] = []

    def watching(asgi: ASGIApp) -> ASGIApp:
        async def watched(scope: Scope, receive: Receive, send: Send) -> None:
            async def sending(message: Message) -> None:
                if message["type"] == "http.response.start" and message["status"] == 202:
                    other = apsw.Connection(str(tmp_path / "chappe.db"), flags=apsw.SQLITE_OPEN_READONLY)
                    seen.append(int(other.execute("select count(*) from ready").fetchone()[0]))  # type: ignore[index] # pyright: ignore[reportOptionalSubscript, reportArgumentType]
                    other.close()
                await send(message)

            await asgi(scope, receive, sending)

        return watched

    async with opened(tmp_path, watching) as shop:
        for _ in range(3):
            assert (await shop.client.post("/commands/order", json=ORDER)).status_code == 202
    assert seen == [1, 2, 3]


async def test_a_full_disk_is_503_and_nothing_is_stored(shop: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    await shop.app.connection()

    def full() -> None:
        raise apsw.FullError("disk")

    with monkeypatch.context() as patch:
        patch.setattr(shop.engine.ledger.turn, "_save_counters", full)
        answer = await shop.client.post("/commands/order", json=ORDER)
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"
    assert await shop.stored("orders") == 0
    assert (await shop.client.get("/readyz")).status_code == 503

    async def room() -> bool:
        return (await shop.client.get("/readyz")).status_code == 200

    await auntil(room, "the engine to have room again")
    assert (await shop.client.post("/commands/order", json=ORDER)).status_code == 202


async def test_prefer_wait_gives_the_result_when_it_is_done(shop: Open) -> None:
    async with shop.working():
        answer = await shop.client.post("/commands/order", json=ORDER, headers={"Prefer": "wait=10"})
    assert answer.status_code == 200
    assert answer.headers["preference-applied"] == "wait=10"
    assert answer.json()["state"] == "done"
    assert answer.json()["result"] == {"customer": "Ada", "lines": 1}
    assert answer.headers["location"] == f"/messages/{answer.json()['id']}"


async def test_prefer_wait_that_was_too_short_is_202(shop: Open) -> None:
    answer = await shop.client.post("/commands/order", json=ORDER, headers={"Prefer": "respond-async, wait=0.05"})
    assert answer.status_code == 202
    assert answer.headers["preference-applied"] == "wait=0.05"


@pytest.mark.parametrize("prefer", ["wait=soon", "wait", "return=minimal", "wait=nan", ""])
async def test_a_preference_that_cannot_be_read_is_ignored(shop: Open, prefer: str) -> None:
    answer = await shop.client.post("/commands/order", json=ORDER, headers={"Prefer": prefer})
    assert answer.status_code == 202
    assert "preference-applied" not in answer.headers


async def test_a_command_that_dies_while_one_waits_is_422_with_its_reason(shop: Open) -> None:
    async with shop.working():
        answer = await shop.client.post("/commands/fail", json={"how": "badly"}, headers={"Prefer": "wait=10"})
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["state"] == "dead"
    assert "it failed badly" in answer.json()["detail"]


async def test_somebody_who_waits_for_a_message_is_woken_by_its_end(shop: Open) -> None:
    location = (await shop.client.post("/commands/order", json=ORDER)).headers["location"]
    waiting = asyncio.ensure_future(shop.client.get(location, headers={"Prefer": "wait=10"}))
    async with shop.working():
        answer = await waiting
    assert answer.json()["state"] == "done"
    assert answer.json()["progress"] == {"done": 1, "total": 2, "text": "half"}


async def test_the_same_key_and_body_is_taken_once_and_answered_alike(shop: Open) -> None:
    headers = {"Idempotency-Key": "k1"}
    first = await shop.client.post("/commands/order", json=ORDER, headers=headers)
    again = await shop.client.post("/commands/order", json=dict(reversed(ORDER.items())), headers=headers)
    assert (first.status_code, again.status_code) == (202, 202)
    assert again.headers["location"] == first.headers["location"]
    assert again.json()["id"] == first.json()["id"]
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    assert await shop.stored("orders") == 1


async def test_the_same_key_with_another_body_is_409_and_stores_nothing(shop: Open) -> None:
    headers = {"Idempotency-Key": "k1"}
    await shop.client.post("/commands/order", json=ORDER, headers=headers)
    other = await shop.client.post("/commands/order", json={**ORDER, "customer": "Bob"}, headers=headers)
    assert other.status_code == 409
    assert other.headers["content-type"] == "application/problem+json"
    assert await shop.stored("orders") == 1


async def test_the_same_body_is_the_same_request_also_where_what_is_left_out_has_another_value_by_now(shop: Open) -> None:
    class Ship(Command, queue="orders"):
        parcel: int
        label: str = msgspec.field(default_factory=lambda: uuid.uuid4().hex)

    shop.app.knows(Ship)
    answers = [await shop.client.post("/commands/ship", json={"parcel": 1}, headers={"Idempotency-Key": "k1"}) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [202, 202]
    assert await shop.stored("orders") == 1


async def test_one_key_for_two_commands_is_two_keys(shop: Open) -> None:
    headers = {"Idempotency-Key": "k1"}
    assert (await shop.client.post("/commands/order", json=ORDER, headers=headers)).status_code == 202
    assert (await shop.client.post("/commands/invite", json={"address": "a@b"}, headers=headers)).status_code == 202


async def test_a_key_holds_after_the_message_is_done(shop: Open) -> None:
    headers = {"Idempotency-Key": "k1", "Prefer": "wait=10"}
    async with shop.working() as worker:
        first = await shop.client.post("/commands/order", json=ORDER, headers=headers)
        again = await shop.client.post("/commands/order", json=ORDER, headers=headers)
        assert worker.done == 1
    assert (first.status_code, again.status_code) == (200, 200)
    assert first.json() == again.json()
    assert again.headers["idempotent-replayed"] == "true"


@pytest.mark.parametrize("key", ["", " ", "a b", "x" * 256, "ü"])
async def test_a_key_that_is_not_usable_is_400(shop: Open, key: str) -> None:
    answer = await shop.client.post("/commands/order", json=ORDER, headers={"Idempotency-Key": key.encode("latin-1")})  # type: ignore[dict-item] # pyright: ignore[reportArgumentType]
    assert answer.status_code == 400


async def test_a_unique_command_that_is_pending_is_answered_with_the_first_one(shop: Open) -> None:
    first = (await shop.client.post("/commands/invite", json={"address": "a@b"})).json()
    second = (await shop.client.post("/commands/invite", json={"address": "a@b"})).json()
    assert (first["outcome"], second["outcome"]) == ("stored", "duplicate")
    assert second["id"] == first["id"]


async def test_merged_commands_are_one_message_that_all_can_ask_after(shop: Open) -> None:
    first = (await shop.client.post("/commands/refresh", json={"house": 1, "what": ["rates"]})).json()
    second = await shop.client.post("/commands/refresh", json={"house": 1, "what": ["texts"]})
    assert second.json()["outcome"] == "merged"
    assert await shop.stored("refresh") == 1
    async with shop.working():
        states = [
            (await shop.client.get(f"/messages/{identity}", headers={"Prefer": "wait=10"})).json()
            for identity in (first["id"], second.headers["location"].rsplit("/", 1)[1])
        ]
    assert [s["state"] for s in states] == ["done", "done"]
    assert [s["result"] for s in states] == [["rates", "texts"], ["rates", "texts"]]


async def test_a_command_without_a_queue_is_answered_with_its_result(shop: Open) -> None:
    answer = await shop.client.post("/commands/add", json={"a": 1, "b": 2.5})
    assert answer.status_code == 200
    assert answer.json()["result"] == 3.5
    assert answer.json()["state"] == "done"


async def test_a_command_without_a_queue_that_fails_is_422_not_500(shop: Open) -> None:
    answer = await shop.client.post("/commands/divide", json={"a": 1, "b": 0})
    assert answer.status_code == 422
    assert "ZeroDivisionError" in answer.json()["detail"]


async def test_a_result_that_json_cannot_carry_is_said_and_not_changed(shop: Open) -> None:
    answer = await shop.client.post("/commands/add", json={"a": 10**308, "b": 1.7e308})
    assert answer.status_code == 422
    assert "$: NaN and infinity are no numbers in JSON" in answer.json()["detail"]


async def test_every_field_at_fault_is_listed_with_its_path(shop: Open) -> None:
    wrong = {"lines": [{"article": "pen", "count": 1}, {"article": "ink", "count": 0}], "size": "xl", "extra": 1}
    answer = await shop.client.post("/commands/order", json=wrong)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert (problem["status"], problem["title"]) == (422, "The message is not valid")
    assert {e["path"] for e in problem["errors"]} == {"$.customer", "$.lines[1].count", "$.size", "$.extra"}
    assert all(e["detail"] for e in problem["errors"])
    assert await shop.stored("orders") == 0


@pytest.mark.parametrize("body", [b"", b"{", b"[", b"[1,", b"nul", b"\xff", b'{"customer": "Ada"', b'{"customer": 1, '])
async def test_what_is_no_json_is_400(shop: Open, body: bytes) -> None:
    answer = await shop.client.post("/commands/order", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("body", "detail"), [(b"", "it is empty"), (b'{"customer": "\xc3\xa9\xff"}', "not UTF-8 (byte 16)"), (b'{"customer": ]', "byte 13")]
)
async def test_what_is_no_json_is_told_where_it_is_none(shop: Open, body: bytes, detail: str) -> None:
    answer = await shop.client.post("/commands/order", content=body, headers={"Content-Type": "application/json"})
    assert detail in answer.json()["detail"]


@pytest.mark.parametrize("body", [b"[]", b"1", b'"x"', b"null"])
async def test_json_that_is_no_object_is_422(shop: Open, body: bytes) -> None:
    answer = await shop.client.post("/commands/order", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422


async def test_a_body_that_is_nested_too_deeply_is_400_before_it_is_parsed(shop: Open) -> None:
    body = b'{"customer": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    answer = await shop.client.post("/commands/order", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert "64 levels" in answer.json()["detail"]


async def test_a_field_that_comes_twice_is_400_and_not_the_last_one(shop: Open) -> None:
    body = b'{"address": "a", "address": "b"}'
    answer = await shop.client.post("/commands/invite", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert '"address" comes twice' in answer.json()["detail"]
    assert await shop.stored("invites") == 0


async def test_more_than_ten_thousand_fields_are_400(shop: Open) -> None:
    answer = await shop.client.post("/commands/invite", json={f"f{n}": 1 for n in range(10_001)})
    assert answer.status_code == 400
    assert "at most 10000" in answer.json()["detail"]


async def test_an_unknown_command_is_404_with_the_nearest_name(shop: Open) -> None:
    answer = await shop.client.post("/commands/ordr", json={})
    assert answer.status_code == 404
    assert 'did you mean "order"' in answer.json()["detail"]


async def test_an_event_is_no_command(shop: Open) -> None:
    answer = await shop.client.post("/commands/sold", json={"customer": "x"})
    assert answer.status_code == 404
    assert "is an event" in answer.json()["detail"]


async def test_an_unknown_message_is_404(shop: Open) -> None:
    assert (await shop.client.get("/messages/nobody")).status_code == 404


@pytest.mark.parametrize(
    ("content_type", "status"),
    [("application/json", 202), ("application/json; charset=utf-8", 202), ("APPLICATION/JSON", 202), ("text/plain", 415), ("application/x-www-form-urlencoded", 415),
     ("multipart/form-data", 415), ("application/jsonp", 415), ("", 415)],
)  # fmt: skip
async def test_only_json_is_taken(shop: Open, content_type: str, status: int) -> None:
    answer = await shop.client.post("/commands/invite", content=b'{"address": "a"}', headers={"Content-Type": content_type})
    assert answer.status_code == status


async def test_trace_headers_travel_with_the_message(shop: Open) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    await shop.client.post("/commands/order", json=ORDER, headers={"traceparent": trace, "X-Other": "no"})
    connection = await shop.app.connection()
    (delivery,) = (await connection.store.look("orders", "ready")).messages
    assert delivery.envelope.headers == {"traceparent": trace}


@pytest.mark.parametrize(
    ("headers", "taken"),
    [
        ({"traceparent": "x" * 10_000}, {}),
        ({"traceparent": "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01"}, {}),
        ({"tracestate": "a=1"}, {}),
        ({"traceparent": "00-" + "a" * 32 + "-" + "b" * 16 + "-01", "tracestate": "x" * 600}, {"traceparent": "00-" + "a" * 32 + "-" + "b" * 16 + "-01"}),
        ({"traceparent": "00-" + "a" * 32 + "-" + "b" * 16 + "-01", "tracestate": "v=1"}, {"traceparent": "00-" + "a" * 32 + "-" + "b" * 16 + "-01", "tracestate": "v=1"}),
    ],
)  # fmt: skip
async def test_a_trace_that_cannot_be_read_is_left_behind(shop: Open, headers: dict[str, str], taken: dict[str, str]) -> None:
    assert (await shop.client.post("/commands/order", json=ORDER, headers=headers)).status_code == 202
    connection = await shop.app.connection()
    (delivery,) = (await connection.store.look("orders", "ready")).messages
    assert delivery.envelope.headers == taken


async def test_two_hundred_at_once_are_all_stored(shop: Open) -> None:
    answers = await asyncio.gather(*(shop.client.post("/commands/order", json=ORDER) for _ in range(200)))
    assert {a.status_code for a in answers} == {202}
    assert len({a.json()["id"] for a in answers}) == 200
    assert await shop.stored("orders") == 200


async def test_a_client_that_leaves_while_waiting_loses_nothing(shop: Open) -> None:
    waiting = asyncio.ensure_future(shop.client.post("/commands/order", json=ORDER, headers={"Prefer": "wait=30"}))
    await auntil(lambda: shop.stored("orders"))
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert await shop.stored("orders") == 1
