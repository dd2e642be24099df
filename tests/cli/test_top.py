"""`chappe top`: what is seen of hosts, pools and queues, and when what is left ends."""

from __future__ import annotations

import io
import time
from typing import Any

from rich.console import Console

from chappe.cli.top import Rates, picture
from chappe.engines.contract.fleet import ClientStatus, EngineStatus, Overview, QueueStatus

from .conftest import Chappe

NOW = time.mktime((2026, 11, 29, 12, 0, 0, 0, 0, -1))


def queue(name: str, ready: int = 0, running: int = 0, **more: Any) -> QueueStatus:
    return QueueStatus(name, (), "", ready, running, **({"delayed": 0, "dead": 0, "consumers": 1} | more))


def pool(states: list[str], bounds: tuple[int, int], **more: Any) -> dict[str, Any]:
    processes = [{"name": "p", "state": state, "memory": 40} for state in states]
    return {"bounds": bounds, "processes": processes, "slots": 8, "busy": 3, "rate": 12.0, **more}


def overview(*queues: QueueStatus, pools: dict[str, Any] | None = None, times: list[Any] | None = None, **seen: Any) -> Overview:
    told = {"host": "mill", "pools": pools or {}, "pressure": seen or None, "times": times or []}
    clients = [ClientStatus("s", "supervisor", 0, told), ClientStatus("w", "worker", 0, {})]
    return Overview(EngineStatus("chappe.db"), list(queues), [], clients)


def shown(found: Overview, rates: dict[str, float] | None = None) -> list[str]:
    """Return the lines of a picture on a wide terminal, with single spaces."""
    out = io.StringIO()
    Console(file=out, width=160, highlight=False).print(picture(found, rates or {}, NOW))
    return [" ".join(line.split()) for line in out.getvalue().splitlines()]


def test_w16_what_is_left_ends_at_the_rate_of_now() -> None:
    lines = shown(overview(queue("a", 550, 50, oldest=75.0), queue("b", 30)), {"a": 10.0})
    assert lines[0] == "chappe top 12:00:00 chappe.db"
    assert lines[1] == "630 left 10.0/s ends in 1 m 3 s, at 12:01:03"
    assert "a 550 50 0 0 1 m 15 s 10.0 ends in 1 m, at 12:01:00" in lines
    assert "b 30 0 0 0 stands still" in lines


def test_what_keeps_a_queue_from_its_end_is_said() -> None:
    lines = shown(overview(queue("a", 1, paused=True), queue("b", 1, consumers=0), queue("c", temporary=True), queue("d", dead=2)))
    assert "a 1 0 0 0 paused" in lines
    assert "b 1 0 0 0 nobody serves it" in lines
    assert "d 0 0 0 2" in lines
    assert not any(line.startswith("c ") for line in lines)
    assert lines[1].endswith("2 dead")


def test_pools_show_their_processes_and_why_there_are_so_many() -> None:
    load = {"arrivals": 4.0, "seconds": 0.25}
    pools = {
        "import": pool(["ready"] * 3 + ["FATAL"], (1, 10), load=load, why="more is needed"),
        "mail": pool(["ready", "ready"], (2, 2), load={"seconds": 0.0}, why=""),
    }
    lines = shown(overview(pools=pools))
    assert "import 3 of 1..10 3 32 12.0 250 ms 160 3 ready 1 FATAL more is needed; 4.0/s arrive" in lines
    assert "mail 2 3 16 12.0 80" in lines


def test_the_host_shows_its_processors_and_what_the_governor_says() -> None:
    seen = {"cores": [100, 42], "stalled": 0.5, "limit": 9, "slots": 13, "probe": 0.0123, "slow": 1.4, "why": "the probe takes 1.4 times"}
    lines = shown(overview(**seen))
    assert "mill 0 ██████████ 100 % 1 ████░░░░░░ 42 % waiting for a processor 50%" in lines
    assert "governor 9 of 13 slots probe 12 ms, 1.4 × quiet the probe takes 1.4 times" in lines


def test_rates_are_those_of_the_broker_or_where_it_does_not_count_of_the_workers() -> None:
    rates = Rates()
    assert rates.look(overview(queue("a", done=10)), 1.0) == {}
    assert rates.look(overview(queue("a", done=30)), 3.0) == {"a": 10.0}
    rates = Rates()
    rates.look(overview(queue("a"), times=[["a", [[0], 0.0], [[2, 3], 1.0]]]), 1.0)
    assert rates.look(overview(queue("a"), times=[["a", [[0], 0.0], [[4, 5], 1.0]]]), 2.0) == {"a": 4.0}


def test_w16_top_prints_one_picture_where_stdout_is_no_terminal(chappe: Chappe) -> None:
    chappe("send", "order", "customer=Ada")
    out = chappe("top").out
    assert "1 left" in out
    assert "no supervisor is connected: start chappe run" in out
    assert "nobody serves it" in out
