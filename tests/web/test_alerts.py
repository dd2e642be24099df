"""Alerts: each fault is told once when it has lasted, and once when it is over (rows D23, D26: nobody has to look for them)."""

from __future__ import annotations

import asyncio
import json
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from chappe import App, Event
from chappe.alerting import post
from chappe.engines.contract.fleet import ClientStatus, EngineStatus, Overview, QueueStatus
from chappe.errors import InvalidSettings
from chappe.settings import Alert, load
from chappe.web.alerts import Alerts, Fired, fired_alerts
from chappe.web.watching import Watching

from ..waiting import PATIENCE
from .shop import opened


def overview(*queues: QueueStatus, states: tuple[str, ...] = ()) -> Overview:
    processes = [{"name": f"worker {n}", "pid": n, "state": state, "crashes": 7} for n, state in enumerate(states)]
    supervisor = ClientStatus("s", "supervisor", 0, {"host": "a", "pools": {"default": {"processes": processes}}})
    return Overview(EngineStatus("x"), list(queues), [], [supervisor])


def queue(name: str = "orders", **values: Any) -> QueueStatus:
    return QueueStatus(name, (), "", **{"ready": 0, "running": 0, "delayed": 0, "dead": 0, "consumers": 0, **values})


FAULTS = [
    (
        Alert(age=60.0),
        queue(ready=1, oldest=60.0),
        queue(ready=1, oldest=61.0),
        61.0,
        "orders: its oldest message waits for more than 60 s",
    ),
    (Alert(depth=10), queue(ready=10), queue(ready=11), 11.0, "more than 10 messages are ready"),
    (Alert(dead=0), queue(), queue(dead=2), 2.0, "more than 0 dead letters"),
    (Alert(dead=1), queue(dead=1), queue(dead=2), 2.0, "more than 1 dead letter"),
    (Alert(queue="ord*", depth=10), queue("others", ready=50), queue("orders", ready=50), 50.0, "queue orders"),
]


def told(alerts: Alerts, at: float, *queues: QueueStatus, states: tuple[str, ...] = ()) -> list[tuple[str, bool]]:
    return [(change.fired.name, change.is_over) for change in alerts.look(at, overview(*queues, states=states))]


@pytest.mark.parametrize(("rule", "well", "ill", "value", "text"), FAULTS)
def test_a_fault_fires_once_when_it_has_lasted_and_is_over_once(
    rule: Alert, well: QueueStatus, ill: QueueStatus, value: float, text: str
) -> None:
    alerts = Alerts({"rule": rule})
    assert told(alerts, 100.0, well) == []
    assert told(alerts, 101.0, ill) == []
    assert told(alerts, 110.9, ill) == []
    (change,) = alerts.look(111.0, overview(ill))
    assert (change.is_over, change.fired.since, change.fired.value, text in change.fired.text) == (False, 101.0, value, True)
    assert told(alerts, 112.0, ill) == []
    assert told(alerts, 113.0, well) == []
    assert told(alerts, 122.0, well) == []
    assert told(alerts, 123.0, well) == [(change.fired.name, True)]
    assert told(alerts, 200.0, well) == []


def test_what_goes_to_and_fro_is_told_when_it_stays() -> None:
    alerts = Alerts({"rule": Alert(depth=1, hold=5.0)})
    for second in range(50):
        assert told(alerts, second, queue(ready=second % 4)) == []
    assert [told(alerts, 50.0 + second, queue(ready=9)) for second in range(7)].count([("rule depth orders", False)]) == 1
    for second in range(50):
        assert told(alerts, 60.0 + second, queue(ready=second % 4)) == []


def test_a_queue_is_stalled_where_nothing_runs_though_something_waits_and_nobody_paused_it() -> None:
    alerts = Alerts({"rule": Alert(stalled=30.0, hold=0.0)})
    for second, one in enumerate((queue(ready=5, running=1), queue(ready=5, paused=True), queue(delayed=5))):
        for at in range(100):
            assert told(alerts, second * 100.0 + at, one) == []
    assert [bool(told(alerts, 300.0 + at, queue(ready=5))) for at in range(33)] == [False] * 31 + [True, False]
    assert told(alerts, 340.0, queue(ready=5, running=1)) == [("rule stalled orders", True)]


def test_a_process_that_has_given_up_is_a_crash_loop_of_its_own() -> None:
    alerts = Alerts({"rule": Alert(crash_loop=True, hold=0.0)})
    assert told(alerts, 0.0, states=("ready", "waiting")) == []
    assert told(alerts, 1.0, states=("FATAL", "waiting")) == [("rule crash_loop a/worker 0", False)]
    assert told(alerts, 2.0, states=("FATAL", "FATAL")) == [("rule crash_loop a/worker 1", False)]
    assert told(alerts, 3.0) == [("rule crash_loop a/worker 0", True), ("rule crash_loop a/worker 1", True)]


def test_what_another_gateway_has_told_is_not_told_again_and_ends_also_where_its_rule_is_gone() -> None:
    before = [Fired("rule depth orders", "too many", 5.0, 9.0), Fired("gone depth orders", "too many", 5.0, 9.0)]
    alerts = Alerts({"rule": Alert(depth=1)}, before)
    assert told(alerts, 100.0, queue(ready=5)) == [("gone depth orders", True)]
    assert told(alerts, 200.0, queue(ready=5)) == []


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"alerts": {"a": {}}}, "alerts.a: say when"),
        ({"alerts": {"a": {"events": "bid"}}}, "say when"),
        ({"alerts": {"a": {"most": 3}}}, "belong together"),
        ({"alerts": {"a": {"events": "bid", "least": 1, "within": 0}}}, "within must be within"),
        ({"alerts": {"a": {"age": -1}}}, "must not be negative"),
        ({"alerts": {"a": {"ages": 1}}}, 'did you mean "age"'),
        ({"alerts": {"a b": {"age": 1}}}, "is no name"),
        ({"alert_webhook": "file:///etc/passwd"}, "alert_webhook is no address"),
    ],
)
def test_an_alert_that_could_never_fire_is_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidSettings, match=said):
        load(values, {}, None)


def test_no_text_shows_the_address_of_the_webhook() -> None:
    assert "T0PS3CRET" not in repr(load({"alert_webhook": "https://hooks.example.org/T0PS3CRET"}, {}, None))


class Hook:
    """A webhook of this machine that keeps what it is sent, and refuses the first requests."""

    def __init__(self, refusals: list[int]) -> None:
        self.received: list[dict[str, Any]] = []
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status = refusals.pop(0) if refusals else 200
                if status == 200:
                    hook.received.append(json.loads(body))
                self.send_response(status)
                self.end_headers()

            def log_message(self, *_: Any) -> None: ...

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"
        Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.mark.parametrize(("refusals", "slept", "received"), [([], 0, 1), ([500, 503, 429], 3, 1), ([500] * 9, 4, 0), ([404], 0, 0)])
async def test_a_webhook_is_tried_again_a_few_times_where_that_may_help(refusals: list[int], slept: int, received: int) -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    hook = Hook(refusals)
    await post(hook.url, {"state": "fired"}, sleep)
    hook.close()
    assert (len(waits), hook.received) == (slept, [{"state": "fired"}] * received)
    await post("http://127.0.0.1:9/nobody", {}, sleep)


async def test_an_alert_is_told_once_by_all_gateways_and_shown_until_it_is_over(tmp_path: Path) -> None:
    hook, out = Hook([]), tmp_path / "told"
    rules = load({"alerts": {"many": {"depth": 1, "hold": 0}}}, {}, None).alerts
    command = f"""sh -c 'echo "$CHAPPE_ALERT" >> {out}' x"""
    async with opened(tmp_path, alerts=rules, alert=command, alert_webhook=hook.url) as shop:
        now = 1000.0
        first, second = Watching(shop.app, lambda: now), Watching(shop.app, lambda: now)
        for number in range(3):
            await shop.client.post("/commands/invite", json={"address": str(number)})
        await told_by(first)
        await first.close()
        await told_by(second)
        (alert,) = (await shop.client.get("/api/alerts")).json()["alerts"]
        assert (alert["name"], alert["text"], alert["value"]) == (
            "many depth invites",
            "queue invites: more than 1 messages are ready",
            3.0,
        )
        await (await shop.app.connection()).broker.purge("invites")
        await told_by(second)
        assert (await shop.client.get("/api/alerts")).json() == {"alerts": []}
        await second.close()
        assert [(one["state"], one["name"], one["application"]) for one in hook.received] == [
            ("fired", "many depth invites", "shop"), ("resolved", "many depth invites", "shop"),
        ]  # fmt: skip
        assert [line.partition(": ")[2] for line in out.read_text().splitlines()] == [
            "queue invites: more than 1 messages are ready", "it is over: queue invites: more than 1 messages are ready",
        ]  # fmt: skip
        entries = (await shop.client.get("/api/audit")).json()["entries"]
        assert [entry["what"] for entry in entries] == ["alert:many depth invites"] * 2
    hook.close()


class Bid(Event):
    house: str


def make() -> App:
    app = App("house")
    app.knows(Bid)
    return app


async def test_events_that_do_not_come_and_that_come_too_often_are_told(tmp_path: Path) -> None:
    rules = load({"alerts": {"quiet": {"events": "bid", "least": 2, "within": 60, "hold": 0},
                             "storm": {"events": "#", "most": 3, "within": 60, "hold": 0}}}, {}, None).alerts  # fmt: skip
    async with opened(tmp_path, make=make, alerts=rules) as house:
        store = (await house.app.connection()).store
        await house.app.asend([Bid(house=str(n)) for n in range(9)])
        start = now = float(int(time.time()))
        watching = Watching(house.app, lambda: now)

        async def fired() -> list[str]:
            await watching.look()
            return sorted(one.name for one in await fired_alerts(store))

        assert await fired() == [], "what was there before the first look does not count"
        await house.app.asend([Bid(house="a")])
        now = start + 59.0
        assert await fired() == [], "a minute has not been looked at"
        now = start + 90.0
        assert await fired() == ["quiet least bid"]
        await house.app.asend([Bid(house="b") for _ in range(4)])
        now = start + 59.0
        assert await fired() == ["storm most #"]
        await watching.close()


async def told_by(watching: Watching) -> None:
    """Have a gateway look, and wait until all that it tells is told."""
    await watching.look()
    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(*watching._telling)
