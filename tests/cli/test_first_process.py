"""The first process of a container, in a PID namespace."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ..waiting import until
from .conftest import environment

CONTAINER = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")

MAIN = """
import signal, subprocess, sys, time
from chappe.cli.first_process import divide_first_process

divide_first_process()

def zombies():
    found = subprocess.run(["ps", "-eo", "stat="], capture_output=True, text=True, check=True)  # our own exit codes stay ours
    return [state for state in found.stdout.split() if state.startswith("Z")]

subprocess.run("for i in 1 2 3 4 5; do sleep 0.05 & done", shell=True, check=True)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
while zombies() or subprocess.run(["pgrep", "sleep"], stdout=subprocess.DEVNULL).returncode == 0:
    time.sleep(0.01)
print("clear", flush=True)
if len(sys.argv) > 1:
    signal.raise_signal(int(sys.argv[1]))
signal.pause()
"""


@pytest.fixture(autouse=True)
def _may_make_containers() -> None:
    if os.getuid() != 0 or shutil.which("unshare") is None or subprocess.run([*CONTAINER, "true"], check=False, stderr=-3).returncode:
        pytest.skip("needs root, and a kernel that lets it make a PID namespace")


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen([*CONTAINER, sys.executable, "-c", MAIN, *arguments], stdout=subprocess.PIPE, text=True)


def first_process(of: subprocess.Popen[str]) -> int:
    return int(until(lambda: Path(f"/proc/{of.pid}/task/{of.pid}/children").read_text()))


def test_the_first_process_clears_orphans_away_and_ends_on_term_with_the_code_of_the_verb() -> None:
    with start() as container:
        assert container.stdout is not None and container.stdout.readline() == "clear\n"
        os.kill(first_process(container), signal.SIGTERM)
        assert container.wait(30) == 7


def test_a_verb_that_a_signal_ends_is_told_as_shells_do() -> None:
    with start(str(int(signal.SIGKILL))) as container:
        assert container.wait(30) == 128 + signal.SIGKILL


@pytest.mark.timeout(60)
def test_chappe_run_is_ended_by_term_as_the_first_process(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text("from chappe import App\napp = App('shop')\n")
    command = [*CONTAINER, str(Path(sys.executable).with_name("chappe")), "-A", "shop:app", "run", "--no-gateway", "--no-scheduler"]
    with subprocess.Popen(command, cwd=tmp_path, env=environment(), stderr=subprocess.PIPE, text=True) as container:
        assert container.stderr is not None
        for line in container.stderr:
            if "processes are ready" in line:
                break
        os.kill(first_process(container), signal.SIGTERM)
        assert container.wait(40) == 0
