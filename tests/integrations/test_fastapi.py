"""Errors as problems, the application as a dependency, and connections that end with the API."""

from collections.abc import Iterator
from contextlib import asynccontextmanager

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from chappe import App, Command
from chappe.errors import BrokerUnavailable, ChappeError, InvalidMessage, KeyReused, StorageFull, Unconfirmed, UnknownMessage
from chappe.integrations.fastapi import Chappe, install, while_open
from chappe.testing import Trial, testing


class Pay(Command, queue="payments", results=True):
    order: int
    cents: int = 1


@pytest.fixture
def trial() -> Iterator[Trial]:
    app = App("shop")

    @app.handles(Pay)
    def pay(command: Pay) -> None: ...

    with testing(app) as t:
        yield t


ENDED = list[str]()


def api(app: App) -> FastAPI:
    @asynccontextmanager
    async def lifespan(_: FastAPI):
        yield {"began": "yes"}
        ENDED.append("ours")

    made = FastAPI(lifespan=lifespan)
    install(made, app)

    @made.post("/orders/{order}", status_code=202)
    async def order(order: int, chappe: Chappe, cents: int = 1) -> str:
        return (await chappe.asend(Pay(order=order, cents=cents), idempotency_key=f"order-{order}")).outcome

    @made.post("/blocking/{order}")
    def blocking(order: int, chappe: Chappe) -> str:
        return chappe.send(Pay(order=order)).outcome

    return made


def test_endpoints_of_both_kinds_are_given_the_application_and_its_connections_end_with_the_api(trial: Trial) -> None:
    ENDED.clear()
    with TestClient(api(trial.app)) as client:
        assert client.post("/orders/1").json() == "stored"
        assert client.post("/orders/1").json() == "duplicate"
        assert client.post("/blocking/2").json() == "stored"
        assert trial.depth("payments") == (2, 0)
    assert ENDED == ["ours"]


def test_a_key_that_comes_with_another_body_is_a_conflict(trial: Trial) -> None:
    with TestClient(api(trial.app)) as client:
        client.post("/orders/1")
        answer = client.post("/orders/1?cents=2")
    assert (answer.status_code, answer.headers["content-type"]) == (409, "application/problem+json")
    assert "came with another body" in answer.json()["title"]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InvalidMessage("pay", {"$.order": "Expected `int`"}), 422),
        (KeyReused("other"), 409),
        (UnknownMessage("what"), 404),
        (BrokerUnavailable("away"), 503),
        (Unconfirmed("lost"), 503),
        (StorageFull("full"), 503),
    ],
)
def test_each_error_is_a_problem(trial: Trial, error: ChappeError, status: int) -> None:
    made = api(trial.app)

    @made.get("/fails")
    async def fails() -> None:
        raise error

    with TestClient(made) as client:
        answer = client.get("/fails")
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert answer.json()["status"] == status
    assert ("retry-after" in answer.headers) is (status == 503)
    if status == 422:
        assert answer.json()["errors"] == [{"path": "$.order", "detail": "Expected `int`"}]


def test_while_the_intake_is_paused_what_asks_for_it_is_refused_and_all_else_goes_on(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chappe.web.intake.LOOK", -1.0)
    made = api(trial.app)

    @made.post("/guarded", dependencies=[while_open])
    async def guarded(chappe: Chappe) -> str:
        return (await chappe.asend(Pay(order=9))).outcome

    async def desire(value: str | None) -> None:
        await (await trial.app.connection()).store.desire("intake", value, "ada@here")

    with TestClient(made) as client:
        assert client.post("/guarded").status_code == 200
        trial.app.wait_for(desire("paused"))
        answer = client.post("/guarded")
        assert (answer.status_code, answer.headers["content-type"]) == (503, "application/problem+json")
        assert answer.headers["retry-after"] == "60"
        assert client.post("/orders/1").status_code == 202
        trial.app.wait_for(desire(None))
        assert client.post("/guarded").status_code == 200
