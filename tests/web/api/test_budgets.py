"""Budgets over HTTP: what is left, what was learned, and since when."""

import httpx2

from chappe import App, Command, Context, Snooze
from chappe.testing import testing
from chappe.web.gateway import gateway

from ..shop import of_this_user


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
