"""From any message to what began it, and to everything that followed, whatever state it is in (row D21)."""

import json
from pathlib import Path

import httpx2
import pytest

from chappe import App, Command, Context, Event, Reject, Settings
from chappe.settings import Pool
from chappe.testing import testing
from chappe.web.api.lineage import Lineage
from chappe.web.gateway import gateway

from ..shop import of_this_user


class Begin(Command):
    name: str


class Follow(Command):
    name: str


class Fail(Command):
    name: str


class Begun(Event):
    name: str


def chain() -> App:
    app = App("chain")

    @app.handles(Begin)
    async def begin(command: Begin, context: Context) -> None:
        context.send(Follow(name=command.name))
        context.send(Begun(name=command.name))

    @app.handles(Follow)
    async def follow(command: Follow, context: Context) -> None:
        context.send(Fail(name=command.name))

    @app.handles(Fail)
    async def fail(command: Fail) -> None:
        raise Reject("it cannot be done")

    return app


async def test_every_message_of_a_trail_leads_to_the_same_trail_and_others_are_not_in_it() -> None:
    async with testing(chain()) as t:
        t.advance(3600)  # its clock stands still: what is archived is not older than the ids, which are of the real time
        transport = httpx2.ASGITransport(app=of_this_user(gateway(t.app)))
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost:7070") as http:
            begun = (await http.post("/commands/begin", json={"name": "one"})).json()["id"]
            await http.post("/commands/begin", json={"name": "another"})
            t.drain()
            trail = (await http.get(f"/api/lineage/{begun}")).json()
            assert {(node["type"], node["kind"], node.get("state")) for node in trail["nodes"]} == {
                ("begin", "command", "done"), ("begun", "event", "done"), ("fail", "command", "dead"),
            }  # fmt: skip
            assert trail["is_all"]
            dead = next(node["id"] for node in trail["nodes"] if node["type"] == "fail")
            assert (await http.get(f"/api/lineage/{dead}")).json() == {**trail}
            assert (await http.get("/api/lineage/nothing")).status_code == 404


async def test_lines_of_the_logs_of_this_host_are_part_of_the_trail(tmp_path: Path) -> None:
    app = chain()
    file = tmp_path / "pool.log"
    line = {"timestamp": "2026-11-30T00:00:00Z", "level": "warning", "event": "attempt 1 of m1 failed"}
    file.write_bytes(b"no json m1\n" + json.dumps(line).encode() + b"\n" + json.dumps({**line, "event": "of m2"}).encode() + b"\n")
    app.configure(Settings(pools={"default": Pool(log=str(file))}))
    (node,) = Lineage(app, {})._logged({"m1"})
    assert (node.cause, node.text) == ("m1", "warning: attempt 1 of m1 failed")


async def test_where_the_queues_take_all_the_time_the_archive_is_looked_at_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chappe.web.api.lineage._WITHIN", 0.0)
    async with testing(chain()) as t:
        t.advance(3600)  # its clock stands still: what is archived is not older than the ids, which are of the real time
        transport = httpx2.ASGITransport(app=of_this_user(gateway(t.app)))
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost:7070") as http:
            begun = (await http.post("/commands/begin", json={"name": "one"})).json()["id"]
            t.drain()
            trail = (await http.get(f"/api/lineage/{begun}")).json()
            assert ("begun" in {node["type"] for node in trail["nodes"]}, trail["is_all"]) == (True, False)


async def test_an_event_of_the_trail_says_to_how_many_clients_the_gateway_pushed_it() -> None:
    async with testing(chain()) as t:
        t.advance(3600)  # its clock stands still: what is archived is not older than the ids, which are of the real time
        receipt = await t.app.asend(Begin(name="one"))
        t.drain()
        (event,) = (node for node in (await Lineage(t.app, {}).trail(receipt.id)).nodes if node.kind == "event")
        trail = await Lineage(t.app, {event.id: (5.0, 2)}).trail(receipt.id)
        (push,) = (node for node in trail.nodes if node.kind == "push")
        assert (push.cause, push.at, push.text) == (event.id, 5.0, "pushed to 2 clients")
        other = await Lineage(t.app, {"of another": (5.0, 2)}).trail(receipt.id)
        assert {node.kind for node in other.nodes} == {"command", "event"}
