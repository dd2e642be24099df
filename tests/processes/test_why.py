"""`chappe why` names what really keeps a message from running: each cause induced with real processes."""

import contextlib
import itertools
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from .. import commands
from ..conftest import skip_without
from ..servers import shared
from ..servers.postgres import PostgresNode
from ..waiting import until
from .conftest import Mill

APPLICATION = """
import asyncio, os, pathlib, time
from chappe import App, Command, Context, Retry
from mill import write

app = App("reasons")
here = pathlib.Path(__file__).parent
AGAIN = Retry(5, delay=600.0, factor=1.0, jitter=0.0)


class Long(Command, queue="long", key="{key}"):
    name: str
    key: str


class Fail(Command, queue="long", retry=AGAIN):
    pass


class Idle(Command, queue="idle"):
    pass


class Lost(Command, queue="lost"):
    pass


class Nobody(Command, queue="nobody"):
    pass


class Suspect(Command, queue="suspects", retry=Retry(5, delay=0.0, jitter=0.0)):
    name: str


async def held() -> None:
    while not (here / "release").exists():
        await asyncio.sleep(0.01)


@app.handles(Long)
async def long(command: Long) -> None:
    write("start", command.name)
    await held()


@app.handles(Fail)
async def fail(command: Fail) -> None:
    raise ValueError("not today")


@app.handles(Suspect)
def suspect(command: Suspect, context: Context) -> None:
    write("start", command.name, context.attempt)
    while not (here / "died").exists():
        if len((here / "log").read_text().split("suspect-")) > 3:  # all have begun, in threads that execute
            (here / "died").touch()
            os.kill(os.getpid(), 9)
    while not (here / "release").exists():
        time.sleep(0.01)


@app.handles(Idle)
async def idle(command: Idle) -> None: ...


@app.handles(Lost)
async def lost(command: Lost) -> None: ...


@app.handles(Nobody)
async def nobody(command: Nobody) -> None: ...
"""
NEWER = """
from chappe import App, Command

app = App("reasons")


class NextYear(Command, queue="long"):
    pass


print(app.send(NextYear()).id)
app.close()
"""
POOLS = """
deploy_window = 600
[pools.long]
queues = ["long"]
processes = 1
concurrency = 2
[pools.idle]
queues = ["idle"]
processes = 1
[pools.lost]
queues = ["lost"]
processes = 1
concurrency = 1
[pools.suspects]
queues = ["suspects"]
processes = 1
concurrency = 3
"""


class Reasons:
    """The application while it runs."""

    def __init__(self, mill: Mill) -> None:
        self.mill = mill

    def send(self, kind: str, **fields: str) -> str:
        return self.mill.chappe("send", kind, *(f"{name}={value}" for name, value in fields.items())).stdout.strip().strip('"')

    def why(self, identity: str) -> dict[str, dict[str, Any]]:
        return {row["reason"]: row for row in json.loads(self.mill.chappe("why", identity, "--json").stdout)}

    def told(self, identity: str, reason: str) -> dict[str, Any]:
        return until(lambda: self.why(identity).get(reason), f"{reason} to be named")


@pytest.fixture(params=["file", pytest.param("postgres", marks=pytest.mark.proof)])
def reasons(request: pytest.FixtureRequest, mill: Mill, shared_servers: tuple[Path, int]) -> Iterator[Reasons]:
    if request.param == "postgres":
        skip_without(PostgresNode)
        mill.environment["CHAPPE_BROKER"] = shared.database(*shared_servers).url
    (mill.folder / "reasons.py").write_text(APPLICATION)
    mill.environment["CHAPPE_APP"] = "reasons:app"
    mill.configure(POOLS)
    yield Reasons(mill)
    mill.release()


def test_each_cause_that_keeps_a_message_from_running_is_named_while_it_does(reasons: Reasons) -> None:
    mill = reasons.mill
    mill.run("--no-scheduler")

    # a slot is taken twice, by messages of one key and of another: the next of the key waits for it, others for a slot
    first, _ = reasons.send("long", name="first", key="a"), reasons.send("long", name="second", key="b")
    until(lambda: sorted(mill.names("start")) == ["first", "second"], "both slots to be taken")
    assert set(reasons.why(first)) == {"running"}
    same, other = reasons.send("long", name="same", key="a"), reasons.send("long", name="other", key="c")
    assert first in reasons.told(same, "key")["text"]
    reasons.told(other, "busy")
    reasons.send("long", name="next", key="d")
    last = reasons.send("long", name="last", key="e")
    reasons.told(last, "behind")

    # nobody serves it; its queue is paused; its pool has no processes; its processes are lost
    reasons.told(reasons.send("nobody"), "no_worker")
    mill.chappe("pause", "long")
    reasons.told(last, "paused")
    mill.chappe("resume", "long")
    mill.chappe("scale", "idle=0")
    until(lambda: "idle-1" not in mill.rows(), "the pool to have no processes")
    reasons.told(reasons.send("idle"), "pool")
    mill.chappe("pause", "lost")  # or it would be handled between two deaths
    lost = reasons.send("lost")

    def kill_and_ask() -> bool:
        with contextlib.suppress(ProcessLookupError):  # a process that crashes waits longer for its next start each time
            os.kill(mill.rows()["lost-1"].pid or 2**22, signal.SIGSEGV)
        return "lost" in reasons.why(lost)

    until(kill_and_ask, "lost to be named")

    # three that were running when their worker died: each runs alone, in two processes, and one waits for them
    three = [reasons.send("suspect", name=f"suspect-{name}") for name in ("a", "b", "c")]
    until(lambda: {next(iter(reasons.why(one))) for one in three} == {"alone", "running"}, "one to wait for the others")

    # the door is closed
    with httpx2.Client(base_url=mill.address(), trust_env=False) as client:
        mill.chappe("pause", "--intake")
        refused = until(lambda: (a := client.post("/commands/idle", json={})).status_code == 503 and a, "the door to close")
        assert refused.json()["title"] == "The intake is paused"
        mill.chappe("resume", "--intake")

    # a failed attempt, and a message of a release that is not here
    mill.release()
    failed = reasons.send("fail")
    retry = reasons.told(failed, "retry")
    assert retry["text"].startswith("attempt 1 failed (ValueError: not today)")
    newer = commands.program(mill.folder, mill.environment, NEWER).out.decode().strip()
    reasons.told(newer, "release")


def test_the_governor_that_holds_the_slots_back_is_named(reasons: Reasons) -> None:
    mill = reasons.mill
    mill.configure(POOLS.replace("concurrency = 2", "concurrency = 10") + "[governor]\ncpu = 1\n")  # every machine does more
    mill.run("--no-scheduler", "--no-gateway")
    numbers = itertools.count()

    def held_back() -> dict[str, Any] | None:  # what was sent before the governor ruled runs
        return reasons.why(reasons.send("long", name=f"{next(numbers)}", key=f"{next(numbers)}")).get("governor")

    assert until(held_back, "the governor to hold one back")["text"].endswith("the machine is busy")


@pytest.mark.proof
def test_an_engine_that_cannot_be_reached_is_said_to_be_so(mill: Mill) -> None:
    mill.environment["CHAPPE_BROKER"] = "postgresql://nobody@127.0.0.1:1/nothing"
    said = mill.chappe("why", "01a226ef-0000-7000-8000-000000000000", code=69).stderr
    assert "127.0.0.1" in said
