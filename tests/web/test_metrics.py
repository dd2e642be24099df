"""What Prometheus scrapes (row D23)."""

import shutil
import subprocess

from prometheus_client.parser import text_string_to_metric_families

from chappe import bind
from chappe.beats import Clocked
from chappe.connection import Setting, connect

from .shop import Open


def sample(text: str, name: str, **labels: str) -> float | None:
    for family in text_string_to_metric_families(text):
        for found in family.samples:
            if found.name == name and labels.items() <= found.labels.items():
                return found.value
    return None


async def test_queues_and_requests_are_counted(shop: Open) -> None:
    for address in ("a", "b"):
        await shop.client.post("/commands/invite", json={"address": address})
    await shop.client.post("/commands/nobody-knows-this", json={})
    text = (await shop.client.get("/metrics")).text
    assert sample(text, "chappe_queue_messages", queue="invites", state="ready") == 2
    assert sample(text, "chappe_messages_total", queue="invites", outcome="published") == 2
    assert sample(text, "chappe_http_requests_total", route="commands", status="202") == 2
    assert sample(text, "chappe_http_requests_total", route="commands", status="404") == 1
    assert sample(text, "chappe_http_request_seconds_count", route="commands") == 3


async def test_what_was_handled_and_who_is_connected_is_counted(shop: Open) -> None:
    async with shop.working():
        await shop.client.post("/commands/refresh", json={"house": 1, "what": []}, headers={"Prefer": "wait=10"})
        text = (await shop.client.get("/metrics")).text
    assert sample(text, "chappe_messages_total", queue="refresh", outcome="done") == 1
    assert sample(text, "chappe_queue_messages", queue="refresh", state="ready") == 0
    assert (sample(text, "chappe_clients", role="client") or 0) >= 1


async def test_paths_of_strangers_are_no_labels(shop: Open) -> None:
    for path in ("/wp-admin", "/x/y/z", "/%00"):
        await shop.client.get(path)
    text = (await shop.client.get("/metrics")).text
    assert sample(text, "chappe_http_requests_total", route="other", status="404") == 3
    assert "wp-admin" not in text


async def test_temporary_queues_are_no_labels_for_each_has_a_new_name(shop: Open) -> None:
    broker = (await shop.app.connection()).broker
    async with broker.consume([], prefetch=1, temporary=[bind("screen")]):
        assert "screen" in (await shop.client.get("/api/queues")).text
        assert "screen" not in (await shop.client.get("/metrics")).text


async def test_promtool_finds_no_fault(shop: Open) -> None:
    promtool = shutil.which("promtool")
    assert promtool is not None, "promtool is missing: make tools installs it as root, or install Debian's package prometheus"
    await shop.client.post("/commands/invite", json={"address": "a"})
    answer = await shop.client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    checked = subprocess.run([promtool, "check", "metrics"], input=answer.content, capture_output=True, timeout=200, check=False)
    assert (checked.returncode, checked.stdout.decode(), checked.stderr.decode()) == (0, "", "")


async def test_what_supervisors_tell_of_pools_times_and_hosts_is_there_at_every_gateway(shop: Open) -> None:
    clocked = Clocked()
    clocked.add("invites", 0.2, 3.0)
    times = clocked.take()
    pool = {
        "processes": [{"state": "ready", "memory": 30}, {"state": "FATAL", "memory": 0}], "wanted": 2, "busy": 5,
        "load": {"arrivals": 1.5, "ready": 7, "seconds": 3.0, "oldest": None},
    }  # fmt: skip
    pressure = {"cpu": 81.5, "stalled": 0.25, "probe": None, "limit": 9, "slots": 20, "slow": None}
    told = {"host": "mill", "pools": {"push": pool}, "pressure": pressure, "times": times}
    setting = Setting(role="supervisor", engine=shop.app.connections.setting.engine)
    supervisor = connect(shop.app.settings, setting, {})
    await supervisor.store.tell(told)
    await shop.client.post("/commands/invite", json={"address": "a"})
    answer = await shop.client.get("/metrics")
    await supervisor.close()
    text = answer.text
    assert sample(text, "chappe_pool_processes", host="mill", pool="push", state="FATAL") == 1
    assert sample(text, "chappe_pool_processes_wanted", pool="push") == 2
    assert sample(text, "chappe_pool_memory_bytes", pool="push") == 30 * 2**20
    assert sample(text, "chappe_pool_load", pool="push", input="arrivals") == 1.5
    assert sample(text, "chappe_host_pressure", host="mill", input="cpu") == 81.5
    assert sample(text, "chappe_host_pressure", host="mill", input="probe") is None
    assert sample(text, "chappe_governor_slots", host="mill", slots="allowed") == 9
    assert sample(text, "chappe_message_waiting_seconds_bucket", queue="invites", le="0.1") == 0
    assert sample(text, "chappe_message_waiting_seconds_bucket", queue="invites", le="0.25") == 1
    assert sample(text, "chappe_message_running_seconds_sum", queue="invites") == 3.0
    assert (sample(text, "chappe_queue_oldest_seconds", queue="invites") or -1.0) >= 0.0
    assert sample(text, "chappe_queue_paused", queue="invites") == 0
    promtool = shutil.which("promtool")
    if promtool is not None:
        checked = subprocess.run([promtool, "check", "metrics"], input=answer.content, capture_output=True, timeout=200, check=False)
        assert checked.stdout.decode() + checked.stderr.decode() == ""
