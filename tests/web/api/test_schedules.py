"""What comes next over HTTP: when each schedule fires, pause and resume, and what is left of budgets."""

import httpx2
import pytest

from chappe import App, Command, Context, Snooze, cron, every
from chappe.testing import testing
from chappe.web.gateway import gateway

from ..shop import of_this_user


class Tick(Command):
    pass


def ticking() -> App:
    app = App("clock")

    @app.handles(Tick)
    async def tick(_: Tick) -> None: ...

    app.schedule(every(60), Tick())
    app.schedule(cron("0 4 * * *", "Europe/Paris"), Tick())
    return app


async def test_schedules_are_listed_in_the_order_in_which_they_fire_and_paused_and_resumed() -> None:
    async with testing(ticking()) as t:
        transport = httpx2.ASGITransport(app=of_this_user(gateway(t.app)))
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost:7070") as http:
            listed = (await http.get("/api/schedules")).json()["schedules"]
            assert [(one["name"], one["paused"]) for one in listed] == [
                ("clock:tick:every(60)", False), ("clock:tick:cron(0 4 * * *,Europe/Paris)", False),
            ]  # fmt: skip
            assert t.now < listed[0]["next"] <= t.now + 60
            daily = listed[1]["name"]
            assert (await http.post(f"/api/schedules/{daily}", json={"paused": True})).json() == {"name": daily, "paused": True}
            assert [one["paused"] for one in (await http.get("/api/schedules")).json()["schedules"]] == [False, True]
            await http.post("/api/schedules/tick:cron(0 4 * * *,Europe/Paris)", json={"paused": False})
            assert [one["paused"] for one in (await http.get("/api/schedules")).json()["schedules"]] == [False, False]


@pytest.mark.parametrize("body", [b"", b"{}", b'{"paused": 1}', b'{"paused": true, "more": 1}', b"[true]", b"\xff"])
async def test_what_is_not_understood_is_422_and_an_unknown_schedule_404(body: bytes) -> None:
    async with testing(ticking()) as t:
        transport = httpx2.ASGITransport(app=of_this_user(gateway(t.app)))
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost:7070") as http:
            kind = {"content-type": "application/json"}
            assert (await http.post("/api/schedules/tick:every(60)", content=body, headers=kind)).status_code == 422
            unknown = await http.post("/api/schedules/nothing", json={"paused": True})
            assert (unknown.status_code, "clock:tick:every(60)" in unknown.json()["detail"]) == (404, True)


async def test_a_schedule_that_is_fired_by_hand_sends_its_command_now_and_keeps_its_slots() -> None:
    async with testing(ticking()) as t:
        transport = httpx2.ASGITransport(app=of_this_user(gateway(t.app)))
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost:7070") as http:
            before = (await http.get("/api/schedules")).json()
            fired = (await http.post("/api/schedules/tick:every(60)", json={"fire": True})).json()
            assert (fired["name"], fired["outcome"]) == ("clock:tick:every(60)", "stored")
            assert (await http.get("/api/schedules")).json() == before
            both = await http.post("/api/schedules/tick:every(60)", json={"fire": True, "paused": True})
            assert both.status_code == 422


class Save(Command, queue="saves", budget="pocket:{user}"):
    user: str


async def test_what_was_learned_of_an_account_is_shown_with_what_is_left_of_it() -> None:
    app = App("saver")
    saved: list[str] = []

    @app.handles(Save)
    async def save(command: Save, context: Context) -> None:
        if len(saved) == 2:
            await context.throttle(900)
            raise Snooze(900)
        saved.append(command.user)

    async with testing(app) as t:
        transport = httpx2.ASGITransport(app=of_this_user(gateway(t.app)))
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost:7070") as http:
            assert (await http.get("/api/budgets")).json() == {"budgets": []}
            await t.app.asend([Save(user="ada") for _ in range(5)])
            t.drain()
            (shown,) = (await http.get("/api/budgets")).json()["budgets"]
            assert (shown["name"], shown["is_learned"], shown["limit"], shown["window"], shown["left"]) == ("pocket:ada", True, 2, 900.0, 0)
            assert (shown["since"], shown["opens"]) == (t.now, 900.0)
