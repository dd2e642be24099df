"""What operators change while all runs: how many processes there are, what is taken, and which release runs."""

import json
import os
from pathlib import Path

import httpx2

from ..waiting import until
from .conftest import Mill

POOLS = """
[pools.mill]
queues = ["work"]
processes = 1
concurrency = 2
nice = 3
log = "mill.log"
environment = { GRAIN = "rye" }

[pools.rest]
processes = 1
concurrency = 2
"""


def names(mill: Mill) -> list[str]:
    return [name for name in mill.rows() if name.startswith("mill-")]


def test_w6_w15_pools_are_scaled_queues_paused_and_the_intake_closed_and_a_reload_asked_for_while_all_runs(mill: Mill) -> None:
    mill.configure(POOLS)
    mill.run("--no-scheduler")

    mill.chappe("scale", "mill=3")
    until(lambda: names(mill) == ["mill-1", "mill-2", "mill-3"], "two more processes")
    mill.chappe("pause", "work")
    mill.send("Work(name='waits')")
    assert mill.queues()["work"]["paused"] is True
    mill.chappe("scale", "mill=1")
    until(lambda: names(mill) == ["mill-1"], "the last ones to end")
    assert mill.queues()["work"]["ready"] == 1
    mill.chappe("resume", "work")
    until(lambda: mill.names("end") == ["waits"], "it to be handled")

    with httpx2.Client(base_url=mill.address(), trust_env=False) as client:
        assert client.post("/commands/work", json={"name": "taken"}).status_code == 202
        mill.chappe("pause", "--intake")
        answer = until(lambda: (a := client.post("/commands/work", json={"name": "late"})).status_code == 503 and a, "the door to close")
        assert (answer.headers["retry-after"], answer.json()["title"]) == ("60", "The intake is paused")
        mill.chappe("resume", "--intake")
        until(lambda: client.post("/commands/work", json={"name": "again"}).status_code == 202, "the door to open")

    before = mill.pid("mill-1")
    assert os.getpriority(os.PRIO_PROCESS, before) == os.getpriority(os.PRIO_PROCESS, 0) + 3
    if (shares := Path(f"/proc/{before}/autogroup")).exists():  # a worker leads a session of its own
        until(lambda: shares.read_text().endswith(" nice 3\n"), "its session to be as nice to others")
    mill.chappe("reload")
    until(lambda: "all 3 processes run the new release" in mill.errors(), "the new release")
    assert mill.pid("mill-1") != before

    asked = [(row["what"], row["value"]) for row in json.loads(mill.chappe("audit", "--json").stdout)]
    assert asked[:3] == [("pool:mill", "3"), ("queue:work", "paused"), ("pool:mill", "1")]
    assert asked[-1] == ("reload", "as declared")
    told = mill.chappe("status").stdout
    assert "mill" in told and "1 ready" in told
    assert "serves work with 2 slots" in (mill.folder / "mill.log").read_text()
    mill.end()


def test_what_cannot_be_scaled_is_refused_naming_the_pools(mill: Mill) -> None:
    mill.configure(POOLS)
    mill.send("Work(name='a')")
    assert "the pools of chappe.toml are: mill, rest" in mill.chappe("scale", "nil=3", code=2).stderr
    assert 'processes must be within 0..1000: a number, "min..max"' in mill.chappe("scale", "mill=many", code=78).stderr
    assert 'queue "nil" is not declared; declared are:' in mill.chappe("pause", "nil", code=1).stderr
    assert "or --intake" in mill.chappe("pause", code=2).stderr


def test_a_pool_grows_with_what_waits_and_tells_why(mill: Mill) -> None:
    mill.configure('[pools.mill]\nprocesses = "1..3"\nconcurrency = 1\nmax_wait = 1\nenvironment = { GRAIN = "rye" }\n')
    mill.run("--no-scheduler", "--no-gateway")
    mill.send(*[f"Work(name='w{number}', seconds=0.2)" for number in range(60)])
    until(lambda: len(names(mill)) == 3, "as many as are allowed")
    assert "processes in place of 1, more is needed" in mill.errors()
    until(lambda: len({line.pid for line in mill.lines("end")}) == 3, "all of them to work")
    (supervisor,) = [c for c in json.loads(mill.chappe("status", "--json").stdout)[0]["clients"] if c["role"] == "supervisor"]
    pool = supervisor["info"]["pools"]["mill"]
    assert (pool["bounds"], pool["load"]["ready"] > 0, pool["load"]["seconds"] > 0) == ([1, 3], True, True)
    mill.release()
    mill.end()
