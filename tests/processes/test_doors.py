"""Who may speak to a running system, and what its processes know, with real processes and real users."""

import contextlib
import json
import os
import resource
import socket
import subprocess
from pathlib import Path

import httpx2
import psutil
import pytest

from .conftest import Mill

TOKEN = "canary-token-0123456789abcdef"
SHOP = """
import os, subprocess, sys
from chappe import App, Command

app = App("shop")
LOOK = "import os; print(os.environ.get('CHAPPE_TOKEN'))"


class Look(Command, queue="looks"):
    pass


@app.handles(Look)
def look(_: Look) -> list[str | None]:
    child = subprocess.run([sys.executable, "-c", LOOK], capture_output=True, text=True, check=True).stdout.strip()
    return [os.environ.get("CHAPPE_TOKEN"), app.settings.token, child]


class LookHere(Command):
    pass


@app.handles(LookHere)
def look_here(_: LookHere) -> list[str | None]:
    child = subprocess.run([sys.executable, "-c", LOOK], capture_output=True, text=True, check=True).stdout.strip()
    return [os.environ.get("CHAPPE_TOKEN"), child]
"""


@pytest.mark.timeout(90)
def test_no_handler_is_told_the_token(mill: Mill) -> None:
    (mill.folder / "shop.py").write_text(SHOP)
    mill.environment |= {"CHAPPE_APP": "shop:app", "CHAPPE_TOKEN": TOKEN}
    mill.run()
    with httpx2.Client(base_url=mill.address(), trust_env=False) as client:
        assert client.get("/api/queues").status_code == 401
        entrance = {"Authorization": f"Bearer {TOKEN}", "Prefer": "wait=60"}
        worker = client.post("/commands/look", json={}, headers=entrance, timeout=90).json()
        assert worker["result"] == [None, None, "None"]
        gateway = client.post("/commands/look.here", json={}, headers=entrance, timeout=90).json()
        assert gateway["result"] == [None, "None"]
    for name, row in mill.rows().items():
        told = TOKEN in Path(f"/proc/{row.pid}/environ").read_text(errors="replace")
        assert not told or name in ("supervisor", "gateway"), name
    assert TOKEN not in json.dumps(mill.errors())


@pytest.mark.timeout(90)
def test_the_gateway_goes_on_whatever_an_inline_command_does_to_its_process(mill: Mill) -> None:
    mill.run("--no-scheduler")
    before = mill.pid("gateway")
    with httpx2.Client(base_url=mill.address(), trust_env=False, timeout=60) as client:
        answers = [client.post("/commands/now", json={"what": what}) for what in ("fork", "exit", "fork-in-task", "stop", "fine")]
    assert [answer.status_code for answer in answers] == [200, 422, 200, 422, 200], [answer.text for answer in answers]
    assert [line.attempt for line in mill.lines("child")] == [70, 70]
    assert len(mill.lines("start")) == 5
    assert mill.pid("gateway") == before
    mill.end()


@pytest.mark.timeout(90)
def test_h5_every_port_of_a_run_is_at_the_chosen_interface_and_another_one_finds_nothing(mill: Mill) -> None:
    mill.run()
    port = int(mill.address().rpartition(":")[2])
    assert mill.process is not None
    run = psutil.Process(mill.process.pid)
    connections = [one for process in (run, *run.children(recursive=True)) for one in process.net_connections("inet")]
    places = {one.laddr for one in connections if one.status == psutil.CONN_LISTEN}
    assert [tuple(place) for place in places] == [("127.0.0.1", port)]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", port))


@pytest.mark.timeout(90)
def test_half_requests_do_not_keep_others_out_of_a_gateway_with_few_descriptors(mill: Mill) -> None:
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, allowed[1]))
    try:
        mill.run()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, allowed)
    address = mill.address()
    port = int(address.rpartition(":")[2])
    with contextlib.ExitStack() as stack:
        keeping = stack.enter_context(httpx2.Client(base_url=address, trust_env=False))
        assert keeping.get("/api/queues").status_code == 200
        for _ in range(120):
            half = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            with contextlib.suppress(ConnectionError):
                half.sendall(b"GET /queues HTTP/1.1\r\nHost: local")
        for _ in range(6):
            with httpx2.Client(base_url=address, trust_env=False, timeout=30) as client:
                assert client.get("/api/queues").status_code == 200
    assert "out of system resource" not in mill.errors()


@pytest.mark.timeout(90)
@pytest.mark.skipif(os.getuid() != 0, reason="only root can be another user")
def test_without_a_token_another_user_of_the_machine_is_refused_until_allowed(mill: Mill) -> None:
    def asked(*arguments: str) -> tuple[str, str]:
        command = ["setpriv", "--reuid=65534", "--clear-groups", "curl", "-s", "-w", "\\n%{http_code}", *arguments]
        body, _, status = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.rpartition("\n")
        return status, body

    mill.run()
    address = mill.address()
    work = f"{address}/commands/work", "--json", '{"name": "stranger"}'
    assert httpx2.get(f"{address}/api/queues", trust_env=False).status_code == 200
    for arguments in (f"{address}/api/queues",), (f"{address}/metrics",), work:
        status, body = asked(*arguments)
        assert (status, json.loads(body)["title"]) == ("403", "This user is not served")
    assert asked(f"{address}/livez")[0] == "200"
    mill.end()
    mill.configure('allowed_users = ["65534"]')
    mill.run()
    assert asked(f"{mill.address()}/api/queues")[0] == "200"
    assert mill.queues()["work"]["ready"] == 0
