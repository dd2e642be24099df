"""Dead letters over HTTP: grouped by their cause, edited, retried and discarded, and who did it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from chappe import App, Command, Reject, Retry, Unique

from ...waiting import PATIENCE
from ..shop import Open, opened


class Price(Command, queue="prices", retry=Retry(1)):
    text: str
    house: int = 0


class Invite(Command, queue="invites", retry=Retry(1), unique=Unique("{address}")):
    address: str


class Knock(Command, queue="knocks", retry=Retry(2, delay=1000.0)):
    house: int


def make() -> App:
    app = App("mill")

    @app.handles(Knock)
    async def knock(command: Knock) -> None:
        raise ConnectionError(f"house {command.house} does not answer")

    @app.handles(Price)
    async def price(command: Price) -> float:
        if command.text == "away":
            raise Reject(f"house {command.house} is away")
        if command.text == "none":
            raise KeyError(command.house)
        return parsed(command.text)

    @app.handles(Invite)
    async def invite(command: Invite) -> None:
        raise Reject("no address")

    return app


def parsed(text: str) -> float:
    return float(text)


@pytest.fixture
async def mill(tmp_path: Path) -> AsyncIterator[Open]:
    async with opened(tmp_path, make=make) as mill:
        yield mill


async def failed(mill: Open, *commands: Command) -> None:
    """Have a worker handle commands until all of them have ended."""
    await mill.app.asend(list(commands))
    await idle(mill)


async def idle(mill: Open) -> None:
    store = (await mill.app.connection()).store
    async with mill.working(), asyncio.timeout(PATIENCE):
        while any(queue.ready or queue.running for queue in (await store.overview()).queues):
            await asyncio.sleep(0.01)


async def groups(mill: Open, state: str = "all") -> list[dict[str, Any]]:
    while not (found := (await mill.client.get("/api/failures", params={"state": state})).json())["is_whole"]:
        await asyncio.sleep(0.01)
    return found["groups"]


CAUSES = [
    *(Price(text="away", house=n) for n in range(30)),
    *(Price(text="none", house=n) for n in range(20)),
    *(Price(text="1,5") for _ in range(10)),
]


async def test_failures_of_three_causes_are_three_groups_and_one_is_retried_with_an_edited_field(mill: Open) -> None:
    await failed(mill, *CAUSES)
    found = {group["count"]: group for group in await groups(mill)}
    assert set(found) == {30, 20, 10}
    assert {(one["type"], one["queue"], one["state"]) for one in found.values()} == {("price", "prices", "open")}
    assert found[10]["place"].startswith("tests.web.api.test_failures:parsed:")
    assert found[10]["handler"] == "tests.web.api.test_failures:make.<locals>.price"
    assert (found[10]["error"], sum(count for _, count in found[10]["occurrences"])) == (
        "ValueError: could not convert string to float: '1,5'",
        10,
    )
    path = f"/api/failures/{found[10]['fingerprint']}"
    page = (await mill.client.get(path, params={"limit": 6})).json()
    rest = (await mill.client.get(path, params={"limit": 6, "cursor": page["cursor"]})).json()
    assert (len(page["letters"]), len(rest["letters"]), rest["cursor"]) == (6, 4, None)
    for edit, status in (({"texts": "1.5"}, 422), ({"text": 5}, 200)):
        answer = await mill.client.post(path, json={"action": "retry", "edit": edit})
        assert (answer.status_code, answer.json().get("done", 0)) == (status, 0), "a body that is none of its type is not retried"
    before = [letter for letter in await dead(mill) if letter["error"] != found[10]["error"]]
    done = (await mill.client.post(path, json={"action": "retry", "edit": {"text": "1.5"}})).json()
    assert done == {"done": 10, "left": 0, "refused": [], "cursor": None}
    await idle(mill)
    assert await dead(mill) == before, "all succeed, and nothing else was touched"
    assert sorted(group["count"] for group in await groups(mill)) == [20, 30]
    assert (await mill.client.post(path, json={"action": "retry"})).status_code == 404
    entry = (await mill.client.get("/api/audit")).json()["entries"][0]
    assert (entry["what"], entry["value"].startswith("10 dead letters of failure ")) == ("act:retry", True)


async def dead(mill: Open) -> list[dict[str, Any]]:
    return (await mill.client.get("/api/letters", params={"limit": 200})).json()["letters"]


async def test_what_is_said_of_a_failure_stays_with_who_said_it(mill: Open) -> None:
    await failed(mill, Price(text="away"))
    (group,) = await groups(mill)
    path = f"/api/failures/{group['fingerprint']}"
    for action, state in (("ignore", "ignored"), ("reopen", "open"), ("resolve", "resolved")):
        assert (await mill.client.post(path, json={"action": action})).status_code == 200
        (found,) = await groups(mill, state)
        assert (found["state"], bool(found["who"])) == (state, True)
    assert await groups(mill, "ignored") == []
    entries = (await mill.client.get("/api/audit", params={"limit": 3})).json()["entries"]
    assert [(entry["what"], entry["value"]) for entry in entries] == [
        (f"failure:{group['fingerprint']}", value) for value in ("resolved", None, "ignored")
    ]


async def test_what_others_take_away_is_seen_and_a_group_is_discarded(mill: Open) -> None:
    await failed(mill, *(Price(text="none", house=n) for n in range(5)))
    (group,) = await groups(mill)
    store = (await mill.app.connection()).store
    numbers = [letter["number"] for letter in await dead(mill)]
    assert await store.discard_letters(numbers[:1]) == 1
    path = f"/api/failures/{group['fingerprint']}"
    page = (await mill.client.get(path)).json()
    assert ([letter["number"] for letter in page["letters"]], page["group"]["count"]) == (numbers[1:], 4)
    assert (await mill.client.post(path, json={"action": "discard"})).json()["done"] == 4
    assert (await groups(mill), await dead(mill)) == ([], [])


async def test_a_letter_that_cannot_be_retried_beside_another_is_named_and_the_others_are_retried(mill: Open) -> None:
    for address in ("a", "b"):
        await failed(mill, Invite(address=address))
    await mill.app.asend(Invite(address="b"))
    (group,) = await groups(mill)
    answer = (await mill.client.post(f"/api/failures/{group['fingerprint']}", json={"action": "retry"})).json()
    assert (answer["done"], answer["left"], len(answer["refused"])) == (1, 0, 1)
    assert "b" in answer["refused"][0]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"action": "delete"},
        {"action": "discard", "edit": {"a": 1}},
        {"action": "retry", "cursor": "x"},
        {"action": "retry", "more": 1},
        [],
    ],
)
async def test_what_is_not_understood_is_422_and_changes_nothing(mill: Open, body: Any) -> None:
    await failed(mill, Price(text="away"))
    (group,) = await groups(mill)
    assert (await mill.client.post(f"/api/failures/{group['fingerprint']}", json=body)).status_code == 422
    assert (await mill.client.post("/api/failures/nothing", json={"action": "retry"})).status_code == 404
    assert len(await dead(mill)) == 1


async def test_one_letter_is_shown_edited_retried_and_discarded(mill: Open) -> None:
    await failed(mill, Price(text="1,5"), Price(text="away", house=7))
    first, second = await dead(mill)
    whole = (await mill.client.get(f"/api/letters/{first['number']}")).json()
    assert (whole["body"], whole["fingerprint"] in {group["fingerprint"] for group in await groups(mill)}) == (
        {"text": "1,5", "house": 0},
        True,
    )
    assert "Traceback" in whole["traceback"] and whole["id"] == first["id"]
    path = f"/api/letters/{first['number']}"
    for body, status in (({"action": "retry", "body": {"text": 1}}, 422), ({"action": "discard", "body": {"text": "1"}}, 422), ({}, 422)):
        assert (await mill.client.post(path, json=body)).status_code == status
    assert (await mill.client.post(path, json={"action": "retry", "body": {"text": "1.5"}})).json()["done"] == 1
    await idle(mill)
    assert [letter["number"] for letter in await dead(mill)] == [second["number"]]
    assert (await mill.client.post(f"/api/letters/{second['number']}", json={"action": "discard"})).json()["done"] == 1
    assert (await mill.client.get(f"/api/letters/{second['number']}")).status_code == 404
    assert [entry["what"] for entry in (await mill.client.get("/api/audit")).json()["entries"]] == ["act:discard", "act:retry"]


@pytest.mark.parametrize(
    "path", ["/api/letters?limit=0x1", "/api/letters?cursor=-1", "/api/letters?limit=9999", "/api/failures?state=x", "/api/audit?limit=²"]
)
async def test_a_query_that_is_not_understood_is_422(mill: Open, path: str) -> None:
    assert (await mill.client.get(path)).status_code == 422


async def test_what_waits_for_another_attempt_is_in_the_group_of_its_cause(mill: Open) -> None:
    await failed(mill, *(Knock(house=n) for n in range(3)))
    (group,) = await groups(mill, "open")
    assert (group["count"], group["waiting"], group["error"]) == (0, 3, "ConnectionError: house 2 does not answer")
    path = f"/api/failures/{group['fingerprint']}"
    page = (await mill.client.get(path)).json()
    assert (page["group"]["waiting"], page["letters"], page["cursor"]) == (3, [], None)
    assert (await mill.client.post(path, json={"action": "retry"})).json() == {"done": 0, "left": 0, "refused": [], "cursor": None}
    assert (await mill.client.post(path, json={"action": "ignore"})).status_code == 200
    assert [one["waiting"] for one in await groups(mill, "ignored")] == [3]
