"""`chappe run`: one for each file, nothing outlives it, and it refuses what is unsafe."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx2
import psutil
import pytest

from ..waiting import until
from .conftest import Mill, has_ended


def test_everything_starts_serves_and_ends_in_order(mill: Mill) -> None:
    for name in ("uvicorn", "starlette", "httptools", "prometheus_client", "secrets", "queue"):
        (mill.folder / f"{name}.py").write_text("this is the project's own, and nothing that a process of ours needs")
    mill.environment["PYTHONPATH"] = "."
    mill.run()
    rows = mill.rows()
    assert list(rows) == ["supervisor", "engine", "default-1", "scheduler", "gateway"]
    assert mill.process is not None and rows["supervisor"].pid == mill.process.pid
    base = mill.address()
    with httpx2.Client(base_url=base, trust_env=False) as client:
        assert client.get("/readyz").json()["engine"] == rows["engine"].pid
        doctor = mill.chappe("doctor", "--json", CHAPPE_PORT=str(client.base_url.port)).stdout
        assert f"loopback only; process {rows['gateway'].pid} (chappe gateway" in doctor, "it is our own"
        answer = client.post("/commands/work", json={"name": "by_http"}, headers={"Prefer": "wait=10"})
        assert (answer.status_code, answer.json()["state"]) == (200, "done")
    status = mill.chappe("status", "--json").stdout
    assert str(rows["default-1"].pid) in status
    mill.end(signal.SIGINT)
    assert mill.process.returncode == 0
    assert mill.rows() == {}
    until(lambda: not [p for p in mill.processes() if p.pid != os.getpid()])
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(f"{base}/livez", trust_env=False)


def test_nothing_outlives_a_killed_supervisor(mill: Mill) -> None:
    mill.configure("[pools.mill]\nprocesses = 2\nconcurrency = 2\n")
    mill.run()
    assert mill.process is not None
    mill.send("Work(name='running', seconds=2)")
    until(lambda: mill.names("start"))
    children = [psutil.Process(row.pid) for name, row in mill.rows().items() if name != "supervisor"]
    assert len(children) == 5
    mill.process.kill()
    mill.process.wait()
    until(lambda: all(has_ended(child.pid) for child in children), "all children to end")
    assert mill.names("end") == ["running"], "what ran was finished first"


def test_a_new_run_takes_over_after_a_killed_supervisor(mill: Mill) -> None:
    mill.configure("[pools.mill]\nprocesses = 1\nconcurrency = 2\n")
    mill.run("--no-gateway", "--no-scheduler")
    assert mill.process is not None
    mill.process.kill()
    mill.process.wait()
    mill.run("--no-gateway", "--no-scheduler")
    mill.send("Work(name='after')")
    until(lambda: "after" in mill.names("end"))
    mill.end()


def test_a_new_run_is_in_charge_while_a_worker_of_the_killed_one_still_finishes_what_it_runs(mill: Mill) -> None:
    mill.configure("grace = 3600\n[pools.mill]\nprocesses = 1\nconcurrency = 2\n")
    mill.run("--no-gateway", "--no-scheduler")
    assert mill.process is not None
    mill.send("Work(name='long', seconds=600)")
    until(lambda: "long" in mill.names("start"))
    mill.process.kill()
    mill.process.wait()
    mill.run("--no-gateway", "--no-scheduler")
    mill.send("Once(name='after')")
    until(lambda: "after" in mill.names("end"))
    assert "long" not in mill.names("end")
    before, engine = mill.lines("start")[0].pid, mill.pid("engine")
    mill.release()
    until(lambda: has_ended(before), "the worker to end with its message")
    until(lambda: (mill.folder / "chappe.db.lock").read_text() == str(engine), "the engine of the new run to have the file")
    mill.send("Once(name='later')")
    until(lambda: "later" in mill.names("end"))
    assert mill.names("end").count("long") == 1
    mill.end()


def test_a_second_run_for_the_same_file_is_refused_naming_the_first(mill: Mill) -> None:
    mill.run("--no-gateway", "--no-scheduler")
    assert mill.process is not None
    second = mill.chappe("run", code=75)
    assert f"another chappe run is up for chappe.db: chappe.db.supervisor is owned by process {mill.process.pid}" in second.stderr
    assert "Traceback" not in second.stderr
    mill.send("Work(name='still_here')")
    until(lambda: mill.names("end") == ["still_here"])
    mill.end()


@pytest.mark.parametrize(
    ("arguments", "environment", "said"),
    [
        (("run", "--host", "0.0.0.0"), {}, "no token is set; set CHAPPE_TOKEN"),
        (("gateway",), {"CHAPPE_HOST": "0.0.0.0"}, "no token is set; set CHAPPE_TOKEN"),
        (("run",), {"CHAPPE_TOKEN": "short"}, "shorter than 16 characters"),
        (("run",), {"CHAPPE_APP": ""}, "no application is named"),
        (("worker", "-Q", "nowhere"), {}, 'no queue fits "nowhere"'),
        (("worker",), {"CHAPPE_APP": "mill:nothing"}, 'no application called "nothing"'),
    ],
)
def test_what_cannot_run_is_refused_with_78_and_the_remedy(
    mill: Mill, arguments: tuple[str, ...], environment: dict[str, str], said: str
) -> None:
    refused = mill.chappe(*arguments, code=78, **environment)
    assert said in refused.stderr
    assert refused.stdout == ""


def test_a_child_that_cannot_run_with_its_configuration_ends_the_run(mill: Mill) -> None:
    mill.configure('[pools.mill]\nqueues = ["nowhere"]\n')
    ended = mill.chappe("run", "--no-gateway", "--no-scheduler", code=78)
    assert 'no queue fits "nowhere"' in ended.stderr
    assert "cannot run with this configuration" in ended.stderr  # whichever of the two ends first


def test_each_slot_of_a_schedule_fires_once_with_two_schedulers(mill: Mill) -> None:
    (mill.folder / "timed.py").write_text("from mill import *\napp.schedule(every(0.5), Tick())\n")
    mill.environment["CHAPPE_APP"] = "timed:app"
    mill.run("--no-gateway")
    second = mill.script(
        "import os\nos.dup2(os.open('second', os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)\nfrom chappe.cli import main\nmain(['scheduler'])"
    )
    until(lambda: len(mill.lines("tick")) >= 8)
    until(lambda: [one["role"] for one in json.loads(mill.chappe("status", "--json").stdout)[0]["clients"]].count("scheduler") == 2)
    second.terminate()
    assert second.wait(60) == 0
    if second.stdout:
        second.stdout.close()

    def slots() -> list[float]:
        told = mill.errors() + (mill.folder / "second").read_text()
        return sorted(float(slot) for slot in re.findall(r"fired \S+ for ([\d.]+)", told))

    until(lambda: len(mill.lines("tick")) == len(slots()), "each that was fired to be handled once")
    mill.end()
    fired = slots()
    assert len(fired) == len(set(fired)), "each slot once"
    assert all(slot % 0.5 == 0 for slot in fired)


def test_an_application_whose_commands_are_all_inline_runs_too(tmp_path: Path) -> None:
    (tmp_path / "here.py").write_text(
        "from chappe import App, Command\napp = App('here')\nclass Now(Command, inline=True): pass\n@app.handles(Now)\ndef now(_: Now) -> str: return 'done'\n"
    )
    command = [sys.executable, "-m", "chappe", "-A", "here:app", "run", "--no-gateway", "--no-scheduler"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as run:
        assert run.stderr is not None
        try:
            assert any("processes are ready" in line for line in run.stderr)
        finally:
            run.terminate()
        assert run.wait(60) == 0


def test_a_second_interrupt_ends_a_run_without_waiting_for_what_runs(mill: Mill) -> None:
    mill.run()
    mill.chappe("send", "work", "name=long", "seconds:=200")
    until(lambda: "start long" in mill_log(mill), "the handler to run")
    assert mill.process is not None
    mill.process.send_signal(signal.SIGINT)
    gateway = mill.rows()["gateway"].pid
    until(lambda: has_ended(gateway), "the first to be heard")
    assert mill.process.poll() is None, "the first one waits for what runs"
    mill.process.send_signal(signal.SIGINT)
    assert mill.process.wait(60) == 0


def test_a_signal_for_workers_does_not_end_the_others(mill: Mill) -> None:
    mill.run()
    before = mill.rows()
    assert mill.process is not None
    mill.process.send_signal(signal.SIGUSR1)
    until(lambda: "thread" in mill.errors(), "the stacks of the worker")
    assert {name: row.pid for name, row in mill.rows().items()} == {name: row.pid for name, row in before.items()}


def test_a_status_file_that_cannot_be_written_does_not_stop_the_supervision(mill: Mill) -> None:
    mill.run()
    worker = mill.rows()["default-1"].pid
    status = mill.folder / "chappe.db.processes"
    status.unlink()
    status.mkdir()
    for starts in (2, 3):
        os.kill(worker, signal.SIGKILL)
        until(lambda starts=starts: mill.errors().count("started default-1") == starts, "another worker")
        worker = int(re.findall(r"started default-1 \((\d+)\)", mill.errors())[-1])
    assert "cannot write" in mill.errors()


def test_a_port_that_is_taken_ends_the_run_with_a_sentence(mill: Mill) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ended = mill.chappe("run", "--no-scheduler", "--port", str(taken.getsockname()[1]), code=78)
    assert "cannot listen on 127.0.0.1" in ended.stderr


def test_a_reload_with_a_broken_application_keeps_the_rest_running(mill: Mill) -> None:
    mill.run()
    engine = mill.rows()["engine"].pid
    good = (mill.folder / "mill.py").read_text()
    (mill.folder / "mill.py").write_text("this is no python")
    assert mill.process is not None
    os.kill(mill.rows()["default-1"].pid, signal.SIGTERM)
    until(lambda: mill.rows()["default-1"].crashes >= 1, "the broken application to be seen")
    assert mill.process.poll() is None
    (mill.folder / "mill.py").write_text(good)
    mill.chappe("send", "work", "name=again")
    until(lambda: "end again" in mill_log(mill), "the mended application to work")
    assert mill.rows()["engine"].pid == engine


def test_a_handler_that_is_killed_for_hanging_alone_is_blamed(mill: Mill) -> None:
    mill.run()
    mill.chappe("send", "work", "name=neighbour", "seconds:=60")
    until(lambda: "start neighbour 1" in mill_log(mill), "the neighbour to run")
    mill.chappe("send", "hang")
    until(lambda: "start hang 2" in mill_log(mill), "the other to be killed and begun again")
    mill.release()
    until(lambda: "end hang 2" in mill_log(mill) and "end neighbour 1" in mill_log(mill), "both to end")
    assert "start neighbour 2" not in mill_log(mill), "the neighbour's attempt was not counted"


def mill_log(mill: Mill) -> str:
    log = mill.folder / "log"
    return re.sub(r"^\S+ \S+ ", "", log.read_text(), flags=re.M) if log.exists() else ""
