"""Each cause by itself is named, with its time where there is one, and several at once are all named."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from chappe.engines.contract.fleet import QueueStatus
from chappe.engines.contract.inspection import MOST_AHEAD, MessageStatus
from chappe.engines.why import Facts, why
from chappe.messages.envelope import Envelope

NOW = 1_800_000_000.0
MESSAGE = MessageStatus("q", "ready", "5", Envelope("m", "shop.order", b"{}"))
QUEUE = QueueStatus("q", (), "app", 3, 0, 0, 0, consumers=1)


def pool(**more: Any) -> dict[str, Any]:
    process = {"state": "ready"}
    return {"queues": ["*"], "exclude": [], "wanted": 1, "busy": 0, "slots": 10, "rate": 2.0, "processes": [process], **more}


def host(pressure: dict[str, Any] | None = None, **pools: dict[str, Any]) -> dict[str, Any]:
    return {"host": "here", "pools": pools or {"default": pool()}, "pressure": pressure}


def states(*names: str) -> list[dict[str, Any]]:
    return [{"state": name} for name in names]


@pytest.mark.parametrize(
    ("reason", "message", "queue", "more", "until"),
    [
        ("next", {}, {}, {}, None),
        ("paused", {}, {"paused": True}, {}, None),
        ("delayed", {"state": "delayed", "due": NOW + 60}, {}, {}, NOW + 60),
        ("retry", {"state": "delayed", "due": NOW + 60, "attempt": 2, "error": "E: no"}, {}, {}, NOW + 60),
        ("release", {"state": "delayed", "due": NOW + 5}, {}, {"is_handled": False}, NOW + 5),
        ("no_handler", {}, {}, {"is_handled": False}, None),
        ("key", {"key": "k", "held_by": "other"}, {}, {}, None),
        ("budget", {"state": "delayed", "budget": "b", "due": NOW + 10, "pace": 20.0}, {}, {"ahead": 3}, NOW + 70),
        ("behind", {}, {}, {"ahead": 100, "hosts": [host()]}, NOW + 50),
        ("behind", {}, {}, {"ahead": MOST_AHEAD, "hosts": [host()]}, None),
        ("share", {"tenant": "Ada"}, {}, {"ahead": 5, "hosts": [host()]}, None),
        ("busy", {}, {}, {"hosts": [host(default=pool(busy=10))]}, None),
        ("no_worker", {}, {"consumers": 0}, {}, None),
        ("no_worker", {}, {"consumers": 0}, {"hosts": [host(default=pool(queues=["other.*"]))]}, None),
        ("no_worker", {}, {"consumers": 0}, {"hosts": [host(default=pool(exclude=["q"]))]}, None),
        ("pool", {}, {"consumers": 0}, {"hosts": [host(default=pool(wanted=0, processes=[]))]}, None),
        ("lost", {}, {"consumers": 0}, {"hosts": [host(default=pool(processes=states("waiting", "starting")))]}, None),
        ("lost", {}, {"consumers": 0}, {"hosts": [host(default=pool(processes=states("FATAL")))]}, None),
        ("governor", {}, {}, {"hosts": [host({"limit": 2, "slots": 8})]}, None),
        ("alone", {"alone": True, "deaths": 1}, {}, {}, None),
        ("running", {"state": "running", "holder": "worker"}, {}, {}, None),
        ("busy", {"state": "running", "holder": "worker", "begun": False}, {}, {}, None),
        ("dead", {"state": "dead", "reason": "failed", "error": "E: no\nmore", "number": 7}, {}, {}, None),
    ],
)
def test_a_cause_is_named(reason: str, message: Any, queue: Any, more: Any, until: float | None) -> None:
    (found,) = why(replace(MESSAGE, **message), Facts(NOW, replace(QUEUE, **queue), **more))
    assert (found.reason, found.until) == (reason, until)
    assert found.text
    assert "\n" not in found.text


def test_all_causes_that_hold_are_named_at_once() -> None:
    message = replace(MESSAGE, state="delayed", due=NOW + 60)
    found = why(message, Facts(NOW, replace(QUEUE, paused=True, consumers=0), hosts=[host(default=pool(wanted=0))]))
    assert [reason.reason for reason in found] == ["delayed", "paused", "pool"]


def test_the_message_that_has_the_key_is_named() -> None:
    (found,) = why(replace(MESSAGE, key="k", held_by="other"), Facts(NOW, QUEUE))
    assert found.of == "other"
