"""How far a batch is, over HTTP."""

import httpx2

from chappe import App, Command, Reject
from chappe.batches import Batches
from chappe.testing import testing
from chappe.web.gateway import gateway

from .shop import of_this_user


class Fetch(Command, queue="fetches"):
    number: int


async def test_w17_a_batch_is_shown_by_its_id_and_what_is_none_is_404() -> None:
    app = App("reader")
    batches = Batches(app)

    @app.handles(Fetch)
    async def fetch(command: Fetch) -> None:
        if command.number == 2:
            raise Reject("gone")

    async with testing(app) as t:
        transport = httpx2.ASGITransport(app=of_this_user(gateway(app)))
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost:7070") as http:
            batch = await batches.asend([Fetch(number=n) for n in range(3)])
            shown = (await http.get(f"/batches/{batch}")).json()
            assert (shown["id"], shown["total"], shown["waiting"], shown["over"]) == (batch, 3, 3, False)
            t.drain()
            shown = (await http.get(f"/batches/{batch}")).json()
            assert (shown["waiting"], shown["done"], shown["dead"], shown["over"]) == (0, 2, 1, True)
            for unknown in ("nobody", "01a228e0-3375-713b-b27a-48e416fdffe8.7"):
                answer = await http.get(f"/batches/{unknown}")
                assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")
