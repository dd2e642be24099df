"""The rows R1 to R17 and R20 to R22 of the channel manager, on real processes and real HTTP."""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from channel_manager.bookings import FIRST_NIGHT
from channel_manager.check import TERMS, differences
from channel_manager.property import DAY, Listing
from channel_manager.stage import Stage
from tests.waiting import until

pytestmark = pytest.mark.proof

PROPERTIES = 8
SETTLED = 30.0


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """The channels run, Chappe does not yet."""
    with Stage(tmp_path, properties=PROPERTIES) as made:
        made.start_channels()
        yield made


@pytest.fixture
def doors(stage: Stage) -> Stage:
    """Engine and gateway run, no worker does."""
    stage.start_doors()
    return stage


def start_workers(stage: Stage) -> None:
    stage.start_worker("compute", "compute,confirm", "-c", "4")
    stage.start_worker("push", "push.*", "-c", "60")


def settle(stage: Stage) -> None:
    stage.wait_for(stage.idle, "all queues to be empty", SETTLED)


def ready(stage: Stage, queue: str) -> int:
    return stage.queues()[queue]["ready"]


def processes(stage: Stage) -> dict[str, tuple[int, int, int, int]]:
    """Return pid, starts, crashes and planned ends of each supervised process."""
    lines = (stage.folder / "chappe.db.processes").read_text().splitlines()
    rows = [line.split("\t") for line in lines]
    return {name: (int(pid or 0), int(starts), int(crashes), int(planned)) for name, pid, starts, crashes, planned in rows}


def test_r1_a_mask_is_answered_while_no_worker_runs(doors: Stage) -> None:
    seconds: list[float] = []
    for n in range(100):
        started = time.perf_counter()
        answer = doors.post_mask(1 + n % PROPERTIES, "availability")
        seconds.append(time.perf_counter() - started)
        assert answer.status_code == 202
        assert answer.headers["location"].startswith("/messages/")
    assert sorted(seconds)[98] < 0.25
    state = doors.http.get(f"{doors.gateway_url}{answer.headers['location']}").json()
    assert state["state"] == "ready"
    assert doors.stats()["channels"] == {}


def test_r2_a_mask_with_data_is_refused_by_the_schema(doors: Stage) -> None:
    body = {"property_id": 1, "what": ["rates"], "nights": [{"date": "2027-03-01", "free": 2}]}
    answer = doors.http.post(f"{doors.gateway_url}/commands/sync.property", json=body)
    assert answer.status_code == 422
    assert answer.json()["errors"] == [{"path": "$.nights", "detail": "Unknown field"}]
    assert ready(doors, "compute") == 0


def test_r3_a_change_between_the_request_and_the_run_is_what_is_pushed(doors: Stage) -> None:
    doors.post_mask(1, "availability")
    assert doors.properties.book(1, 1, FIRST_NIGHT, FIRST_NIGHT + 3 * DAY)
    start_workers(doors)
    settle(doors)
    free = doors.properties.availability(1, FIRST_NIGHT, 1)[0].free
    shown = doors.state()["alpine"]["alpine-1"][FIRST_NIGHT.isoformat()]
    assert shown == free == doors.properties.properties()[0].units - 1


def test_r4_masks_of_one_property_become_one_run_of_their_union(doors: Stage) -> None:
    answers = [doors.post_mask(3, what).json() for what in ("availability", "rates", "availability")]
    assert [answer["outcome"] for answer in answers] == ["stored", "merged", "merged"]
    assert ready(doors, "compute") == 1
    start_workers(doors)
    settle(doors)
    assert doors.queues()["compute"]["done"] == 1
    states = [doors.http.get(f"{doors.gateway_url}/messages/{answer['id']}").json()["state"] for answer in answers]
    assert states == ["done"] * 3


def test_r5_each_stage_stops_alone_while_the_others_go_on(doors: Stage) -> None:
    start_workers(doors)
    doors.post_mask(1, "availability")
    settle(doors)

    assert doors.stop("compute") == 0
    doors.post_mask(2, "availability")
    assert ready(doors, "compute") == 1

    doors.start_worker("compute", "compute,confirm", "-c", "4")
    assert doors.stop("push") == 0
    doors.post_mask(3, "availability")
    doors.wait_for(lambda: doors.queues()["compute"]["done"] >= 3, "compute to go on", SETTLED)
    waiting = {name: queue["ready"] for name, queue in doors.queues().items() if name.startswith("push.")}
    assert all(waiting.values())

    assert doors.stop("gateway") == 0
    doors.chappe("worker", "-n", "push", "-Q", "push.*", name="push")
    doors.wait_for(lambda: "alpine-3" in doors.state().get("alpine", {}), "pushes to go on without the gateway", SETTLED)


def test_r6_each_channel_gets_the_shape_that_it_needs(doors: Stage) -> None:
    doors.properties.set_rate(2, FIRST_NIGHT, 1, 12345)
    units = doors.properties.properties()[1].units
    for booking in range(units):
        doors.properties.book(booking, 2, FIRST_NIGHT + 4 * DAY, FIRST_NIGHT + 6 * DAY)
    start_workers(doors)
    doors.post_mask(2, "availability", "rates")
    settle(doors)
    state = doors.state()
    first, full = FIRST_NIGHT.isoformat(), (FIRST_NIGHT + 4 * DAY).isoformat()
    assert state["alpine"]["alpine-2"][first] == units
    assert state["nimbus"]["nimbus-2"][first] == {"free": units, "price": "123.45"}
    assert state["ical"]["ical-2"] == {full: "closed", (FIRST_NIGHT + 5 * DAY).isoformat(): "closed"}
    assert (len(state["alpine"]["alpine-2"]), len(state["nimbus"]["nimbus-2"])) == (90, 60)


def test_r6_a_channel_without_rates_is_not_told_of_new_ones(doors: Stage) -> None:
    start_workers(doors)
    doors.post_mask(2, "rates")
    settle(doors)
    assert set(doors.state()) >= {"nimbus"}
    assert not doors.state().get("alpine")


def test_r7_the_routing_key_selects_the_queue_by_wildcards(doors: Stage) -> None:
    queues = doors.queues()
    assert queues["push.alpine"]["bindings"] == [["channels", "push.alpine.*"]]
    doors.properties.offer(Listing("alpine", "second-page-of-1", 1))
    start_workers(doors)
    doors.post_mask(1, "availability")
    settle(doors)
    assert set(doors.state()["alpine"]) == {"alpine-1", "second-page-of-1"}
    done = {name: queue["done"] for name, queue in doors.queues().items()}
    assert (done["push.alpine"], done["push.nimbus"], done["push.ical"]) == (2, 1, 1)


def test_r7_a_channel_that_nobody_serves_is_a_visible_error(doors: Stage) -> None:
    doors.properties.offer(Listing("nowhere", "nowhere-1", 1))
    start_workers(doors)
    identity = doors.post_mask(1, "availability").json()["id"]
    doors.wait_for(lambda: doors.queues()["compute"]["dead"] == 1, "the mask to be a dead letter", SETTLED)
    state = doors.http.get(f"{doors.gateway_url}/messages/{identity}").json()
    assert state["state"] == "dead"
    assert 'no queue takes "push.nowhere.nowhere-1" from exchange "channels"' in state["error"]


def test_r8_several_workers_share_a_queue_and_one_declaration_serves_all(doors: Stage) -> None:
    doors.start_worker("compute", "compute,confirm", "-c", "4")
    doors.start_worker("push-one", "push.*", "-c", "1")
    doors.start_worker("push-two", "push.*", "-c", "1")
    for channel in ("alpine", "nimbus", "ical"):
        doors.manner(channel, "slow", seconds=0.05)
    for number in range(1, PROPERTIES + 1):
        doors.post_mask(number, "availability")
    settle(doors)
    assert differences(doors.properties, doors.state()) == []
    ended = [doors.stop(name) for name in ("push-one", "push-two")]
    assert ended == [0, 0]
    counts = [_handled(doors, name) for name in ("push-one", "push-two")]
    assert sum(counts) == 3 * PROPERTIES
    assert min(counts) >= PROPERTIES // 2


def _handled(stage: Stage, name: str) -> int:
    line = next(line for line in (stage.folder / f"{name}.log").read_text().splitlines() if "ends after" in line)
    return int(line.split("ends after ")[1].split(" ")[0])


def test_r9_consumers_restarted_lose_nothing(doors: Stage) -> None:
    start_workers(doors)
    for number in range(1, PROPERTIES + 1):
        doors.post_mask(number, "availability")
    assert (doors.stop("compute"), doors.stop("push")) == (0, 0)
    for number in range(1, PROPERTIES + 1):
        doors.properties.book(number, number, FIRST_NIGHT, FIRST_NIGHT + DAY)
        doors.post_mask(number, "availability")
    start_workers(doors)
    settle(doors)
    assert differences(doors.properties, doors.state()) == []


def test_r9_control_a_queue_that_goes_with_its_consumer_loses_what_comes_meanwhile(doors: Stage) -> None:
    """The trap of the post: a server-named queue is deleted when its consumer leaves."""
    start_workers(doors)
    assert doors.stop("push") == 0
    chappe(doors, "purge", "-f", "--delete", "push.ical")
    doors.post_mask(1, "availability")
    doors.wait_for(lambda: doors.queues()["compute"]["dead"] == 1, "the loss to be seen", SETTLED)
    doors.start_worker("push", "push.*")
    doors.wait_for(lambda: doors.queues()["push.ical"]["consumers"] == 1, "the queue to be back", SETTLED)
    assert not doors.state()["ical"]
    chappe(doors, "dead", "retry", "-Q", "compute")  # Chappe kept the mask: nothing is lost for good
    doors.wait_for(lambda: "ical-1" in doors.state()["ical"], "the retried mask", SETTLED)


def chappe(stage: Stage, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "chappe", *arguments], env=stage.environment(), capture_output=True, text=True, timeout=30, check=check
    )


RIVAL = """
from channel_manager.app import app as original
from channel_manager.messages import PushCalendar
from chappe import App, bind

app = App("rival")

@app.handles(PushCalendar, queue=bind("push.alpine", "channels:push.#"))
async def take_everything(push: PushCalendar) -> None: ...
"""


def test_r10_a_second_consumer_of_a_queue_with_other_keys_is_refused_naming_both(doors: Stage) -> None:
    (doors.folder / "rival.py").write_text(RIVAL)
    environment = {**doors.environment(), "PYTHONPATH": f"{doors.folder}{os.pathsep}{doors.environment()['PYTHONPATH']}"}
    command = [sys.executable, "-m", "chappe", "-A", "rival:app", "worker"]
    refused = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=False)
    assert refused.returncode == 78
    for part in ('queue "push.alpine"', "channels:push.alpine.*", "push.py", "channels:push.#", "rival.take_everything"):
        assert part in refused.stderr, refused.stderr


def test_r11_a_killed_worker_is_started_again_and_nothing_is_lost(stage: Stage) -> None:
    stage.start_chappe()
    for channel in ("alpine", "nimbus", "ical"):
        stage.manner(channel, "slow", seconds=0.2)
    for number in range(1, PROPERTIES + 1):
        stage.post_mask(number, "availability")
    stage.wait_for(lambda: any(q["running"] for n, q in stage.queues().items() if n.startswith("push.")), "pushes to run", SETTLED)
    killed = processes(stage)["push-1"][0]
    os.kill(killed, signal.SIGKILL)
    until(lambda: processes(stage)["push-1"][0] not in (0, killed), "push-1 to be back", 5.0)
    settle(stage)
    assert differences(stage.properties, stage.state()) == []
    _, starts, crashes, _ = processes(stage)["push-1"]
    assert (starts, crashes) == (2, 1)


CONFIG = """
[pools.compute]
queues = ["compute", "confirm"]
processes = 1
concurrency = 4

[pools.push]
queues = ["push.*"]
processes = 2
concurrency = 20
max_messages = {most}
"""


def test_r12_r13_r14_planned_renewal_counts_no_crash_and_the_others_run_on(stage: Stage) -> None:
    stage.config = stage.folder / "chappe.toml"
    stage.config.write_text('app = "channel_manager.app:app"\n' + CONFIG.format(most=10))
    stage.start_chappe()
    before = processes(stage)
    assert set(before) == {"supervisor", "engine", "gateway", "scheduler", "compute-1", "push-1", "push-2"}
    for round_ in range(4):
        for number in range(1, PROPERTIES + 1):
            stage.properties.book(round_ * 100 + number, number, FIRST_NIGHT, FIRST_NIGHT + DAY)
            stage.post_mask(number, "availability")
        settle(stage)
    assert differences(stage.properties, stage.state()) == []
    after = processes(stage)
    renewed = [after[name] for name in ("push-1", "push-2")]
    assert sum(planned for *_, planned in renewed) >= 4
    assert all(crashes == 0 and starts == planned + 1 for _, starts, crashes, planned in renewed)
    assert after["compute-1"][:2] == before["compute-1"][:2], "a worker without limits runs for ever"


def test_r16_a_change_reaches_the_channels_within_a_second_in_the_mean(stage: Stage) -> None:
    stage.start_chappe()
    started = time.monotonic()
    for n in range(200):
        stage.post_mask(1 + n % PROPERTIES, "availability")
        until(lambda n=n: time.monotonic() >= started + n * 0.01)
    settle(stage)
    means = {name: channel["latency"]["mean"] for name, channel in stage.stats()["channels"].items()}
    assert set(means) == set(TERMS)
    assert max(means.values()) <= 1.0, means


def test_r17_the_applications_queries_are_not_slowed_by_the_queue(doors: Stage) -> None:
    def query_seconds() -> float:
        """Return the best of several medians: what the machine does meanwhile makes some of them slower, the queue would make all."""
        medians: list[float] = []
        for _ in range(10):
            seconds: list[float] = []
            for n in range(100):
                started = time.perf_counter()
                doors.properties.availability(1 + n % PROPERTIES, FIRST_NIGHT, 90)
                seconds.append(time.perf_counter() - started)
            medians.append(statistics.median(seconds))
        return min(medians)

    empty = query_seconds()
    with httpx2.Client(timeout=30.0, trust_env=False) as http:
        for n in range(2000):
            http.post(f"{doors.gateway_url}/commands/confirm.push", json={"message_id": str(n), "listing": "x", "status": "ok"})
    assert ready(doors, "confirm") == 2000
    full = query_seconds()
    assert (
        doors.properties.path.stat().st_size < (doors.folder / "chappe.db").stat().st_size + (doors.folder / "chappe.db-wal").stat().st_size
    )
    chappe(doors, "purge", "-f", "confirm")
    assert full <= 1.5 * max(empty, query_seconds())


@pytest.mark.parametrize("manner", [{"manner": "broken"}, {"manner": "slow", "seconds": 3.0}, {"manner": "drops"}])
def test_r20_a_channel_that_fails_or_crawls_does_not_delay_the_others(stage: Stage, manner: dict[str, object]) -> None:
    stage.start_chappe()
    for number in range(1, PROPERTIES + 1):
        stage.post_mask(number, "availability")
    settle(stage)  # connections are open, everything is imported
    warm = stage.http.get(f"{stage.channels_url}/log").json()["last"]
    stage.manner("nimbus", **manner)  # type: ignore[arg-type]
    for n in range(100):
        stage.properties.book(n, 1 + n % PROPERTIES, FIRST_NIGHT + (n % 60) * DAY, FIRST_NIGHT + (n % 60 + 2) * DAY)
        stage.post_mask(1 + n % PROPERTIES, "availability")
    names = ("push.alpine", "push.ical", "compute")
    stage.wait_for(lambda: not any(stage.queues()[n][s] for n in names for s in ("ready", "running", "delayed")), "the others", SETTLED)
    assert any(stage.queues()["push.nimbus"][state] for state in ("ready", "running", "delayed")), "nimbus is behind"
    others = {name: terms for name, terms in TERMS.items() if name != "nimbus"}
    wrong = [d for d in differences(stage.properties, stage.state(), {**others, "nimbus": TERMS["nimbus"]}) if d.channel != "nimbus"]
    assert wrong == []
    log = stage.http.get(f"{stage.channels_url}/log", params={"after": warm}).json()["entries"]
    latencies = sorted(entry["received_at"] - entry["requested_at"] for entry in log if entry["channel"] in others)
    assert len(latencies) >= 50
    assert latencies[int(len(latencies) * 0.99)] < 3.0, "not by one slow answer of nimbus"
    stage.manner("nimbus", "well")
    settle(stage)
    assert differences(stage.properties, stage.state()) == []


def test_r21_pushes_are_retried_and_an_error_that_must_not_be_resent_is_not(stage: Stage) -> None:
    stage.properties.offer(Listing("nimbus", "house-closed", 1, 60, rates=True))
    stage.start_chappe()
    stage.manner("alpine", "busy", retry_after=1, share=1.0)
    stage.post_mask(1, "availability")
    stage.wait_for(
        lambda: stage.stats()["channels"].get("alpine", {"outcomes": {}})["outcomes"].get("busy", 0) >= 2, "two refusals", SETTLED
    )
    stage.manner("alpine", "well")
    settle(stage)
    log = stage.http.get(f"{stage.channels_url}/log").json()["entries"]
    tries = [entry["received_at"] for entry in log if entry["channel"] == "alpine"]
    assert all(later - earlier >= 0.99 for earlier, later in zip(tries, tries[1:], strict=False)), "Retry-After is kept"
    assert [entry["outcome"] for entry in log if entry["listing"] == "house-closed"] == ["closed"]
    assert stage.queues()["push.nimbus"]["dead"] == 1
    assert next(x for x in stage.properties.every_listing() if x.listing == "house-closed").status == "closed"


LIMITED = """
import time
from chappe import App, Command, Rate

app = App("limited")

class Call(Command, queue="calls", rate=Rate("20/s", key="{channel}")):
    channel: str
    number: int

@app.handles(Call)
async def call(message: Call) -> None:
    with open("calls.log", "a") as log:
        log.write(f"{message.channel} {time.time()}\\n")
"""


def test_r21_a_rate_holds_across_all_workers(tmp_path: Path) -> None:
    (tmp_path / "limited.py").write_text(LIMITED)
    (tmp_path / "send.py").write_text(
        "from limited import app, Call\napp.send([Call(channel=c, number=n) for n in range(100) for c in ('a', 'b')])\napp.close()\n"
    )
    (tmp_path / "chappe.toml").write_text('app = "limited:app"\n[pools.default]\nprocesses = 2\n')
    run = subprocess.Popen(
        [sys.executable, "-m", "chappe", "run", "--no-gateway", "--no-scheduler"], cwd=tmp_path, stderr=subprocess.DEVNULL
    )
    try:
        subprocess.run([sys.executable, "send.py"], cwd=tmp_path, check=True, timeout=30)
        log = tmp_path / "calls.log"
        until(lambda: log.exists() and len(log.read_text().splitlines()) == 200, "200 calls", 40.0)
    finally:
        run.terminate()
        run.wait(30)
    for channel in "ab":
        times = sorted(float(line.split()[1]) for line in log.read_text().splitlines() if line.startswith(channel))
        assert times[-1] - times[0] >= 99 / 20 * 0.75, "two workers with a rate each would take half of it"


HARBOUR = """
import json, os
from channel_manager.app import app
from channel_manager.messages import PushCalendar
from chappe import bind

@app.handles(PushCalendar, queue=bind("push.harbour", "channels:push.harbour.*"))
def push_harbour(push: PushCalendar) -> None:
    with open(os.environ["HARBOUR"], "w") as file:
        json.dump({night.date.isoformat(): night.free for night in push.nights}, file)
"""


def test_r22_a_new_channel_is_one_declaration_and_one_handler(doors: Stage) -> None:
    start_workers(doors)
    (doors.folder / "harbour.py").write_text(HARBOUR)
    shown = doors.folder / "harbour.json"
    environment = {
        **doors.environment(),
        "PYTHONPATH": f"{doors.folder}{os.pathsep}{doors.environment()['PYTHONPATH']}",
        "HARBOUR": str(shown),
    }
    command = [sys.executable, "-m", "chappe", "-A", "harbour:app", "worker", "-Q", "push.harbour"]
    doors.processes["harbour"] = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    doors.wait_for(lambda: doors.queues().get("push.harbour", {}).get("consumers"), "the new channel's worker", SETTLED)
    doors.properties.offer(Listing("harbour", "harbour-1", 1, 30))
    doors.post_mask(1, "availability")
    settle(doors)
    assert shown.exists()
    assert len(shown.read_text()) > 100
    assert "alpine-1" in doors.state()["alpine"]
