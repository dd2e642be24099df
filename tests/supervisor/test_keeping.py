"""What the end of a process means while all run; each process is a shell that says what it is told to (row D18, on one host)."""

import asyncio
import itertools
import logging
import os
import re
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from chappe.engines.file.running_tables import folder_of
from chappe.settings import Pool, Settings
from chappe.supervisor.child import Child
from chappe.supervisor.launcher import ExecLauncher
from chappe.supervisor.supervisor import Supervisor
from chappe.worker.running_table import RunningTable

from ..waiting import auntil

READY = 'echo "$TABLE" > /dev/fd/$CHAPPE_READY_FD; exec sleep 600'


class Host:
    """A supervisor with one worker that runs a message."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.settings = Settings(broker=f"sqlite:///{folder}/chappe.db", fork=False, pools={"work": Pool(processes=1, concurrency=1)})
        self.table = RunningTable(folder_of(self.settings.path), 1)
        self.suspects = self.worker = READY
        monkeypatch.setenv("TABLE", str(self.table.path))
        monkeypatch.setattr("chappe.supervisor.launcher.child_command", self._command)
        monkeypatch.setattr("chappe.supervisor.release.open_launcher", self._open)
        monkeypatch.setattr(Child, "silence", lambda *_: 0.0)  # a shell gives no signs of life

    def _command(self, arguments: Sequence[str]) -> list[str]:
        script = self.suspects if "--suspects" in arguments else self.worker
        return [script] if script.startswith("/") else ["sh", "-c", script, *arguments]

    async def _open(self, environment: Mapping[str, str], seconds: float, *, fork: bool, gateway: bool) -> ExecLauncher:
        assert not fork and not gateway
        return ExecLauncher(environment)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        self.supervisor = Supervisor(self.settings, gateway=False, scheduler=False)
        task = asyncio.create_task(self.supervisor.run())
        await auntil(lambda: self.children("work-1"), "the worker to be ready")
        try:
            yield
        finally:
            assert not task.done(), task
            os.kill(os.getpid(), signal.SIGTERM)
            await task

    def children(self, name: str) -> list[Child]:
        """Return the processes of a name that are ready."""
        return [child for child in self.supervisor.running if child.spec.name == name and child.ready.is_set()]

    def kill_worker(self) -> None:
        """End the worker while it runs a message."""
        self.table.begin(0, 1)
        (worker,) = self.children("work-1")
        worker.signal(signal.SIGKILL)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Host:
    caplog.set_level(logging.INFO)
    return Host(tmp_path, monkeypatch)


async def test_a_process_that_is_added_later_and_finds_a_broken_configuration_ends_nobody_else(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    host.suspects = "exit 78"
    async with host.running():
        host.kill_worker()
        await auntil(lambda: "work-suspects ended with 78" in caplog.text, "it to end")
        await auntil(lambda: host.children("work-1"), "the worker to be replaced")


async def test_a_process_for_suspects_stays_while_it_has_something_to_run(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chappe.supervisor.supervisor._LOOK", 0.01)
    async with host.running():
        host.kill_worker()
        (child,) = await auntil(lambda: host.children("work-suspects"), "the process for suspects")
        looks = itertools.count()
        monkeypatch.setattr(child, "silence", lambda _: next(looks) and 0.0)
        monkeypatch.setattr("chappe.supervisor.supervisor._QUIET", 0.0)
        await auntil(lambda: next(looks) > 30 or child.retired, "the supervisor to look")
        assert not child.retired
        host.table.end(0)
        await auntil(lambda: child.retired, "it to be retired")


async def test_a_process_for_suspects_is_replaced_with_the_release_whenever_it_was_started(host: Host) -> None:
    async with host.running():
        host.kill_worker()
        (before,) = await auntil(lambda: host.children("work-suspects"), "the process for suspects")
        os.kill(os.getpid(), signal.SIGHUP)
        (after,) = await auntil(lambda: before.retired and host.children("work-suspects"), "the new release")
        assert after.release is not before.release
        await auntil(lambda: len(host.supervisor.running) == 2, "the old release to end")


@pytest.mark.parametrize("worker", ["exit 3", "/nowhere/python"], ids=["ends", "cannot be started"])
async def test_w8_a_process_whose_starts_fail_in_a_row_is_fatal_and_somebody_is_told_once(
    worker: str, host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("chappe.supervisor.backoff._PAUSES", (0.0, 0.01))
    told = tmp_path / "told"
    (tmp_path / "tell").write_text(f'echo "$1|$CHAPPE_ALERT" >> {told}\n')
    pools = {"work": Pool(processes=1, concurrency=1, start_retries=2), "sound": Pool(processes=1, concurrency=1)}
    host.settings = msgspec.structs.replace(host.settings, alert=f"sh {tmp_path}/tell", pools=pools)
    async with host.running():
        host.worker = worker
        (child,) = host.children("work-1")
        child.signal(signal.SIGKILL)
        await auntil(lambda: child.crashes > 5, "it to be tried again")
        assert child.state == "FATAL"
        assert host.children("sound-1"), "others go on"
        text = "work-1 is FATAL: 3 starts in a row failed; it is tried again once a minute"
        await auntil(told.exists, "the alert")
        assert told.read_text() == f"{text}|{text}\n"
        assert caplog.text.count(text) == 1
        host.worker = READY
        await auntil(lambda: host.children("work-1"), "it to come back by itself")
        assert child.state == "ready"


@pytest.mark.parametrize(
    ("worker", "number", "why"),
    [
        (READY, signal.SIGKILL, r"work-1 .*ended with -9"),
        (READY, signal.SIGSEGV, r"work-1 .*ended with -11"),
        (READY, signal.SIGTERM, r"work-1 .*ended with -15"),
        (READY.replace("exec sleep 600", "sleep 0.01; exit 3"), None, r"work-1 .*ended with 3"),
        (READY.replace("exec sleep 600", "sleep 0.01; exit 0"), None, r"work-1 .*ended with 0"),
    ],
    ids=["killed", "crashed", "terminated", "failed", "left"],
)
async def test_t8_no_process_stops_without_a_line_that_says_why(
    host: Host, caplog: pytest.LogCaptureFixture, worker: str, number: signal.Signals | None, why: str
) -> None:
    async with host.running():
        (child,) = host.children("work-1")
        host.worker = worker
        child.signal(number or signal.SIGKILL)
        await auntil(lambda: re.search(why, caplog.text), "the line that says why")


async def test_w4_a_worker_that_others_kill_again_and_again_is_replaced_at_once_each_time(
    host: Host, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("chappe.supervisor.backoff._PAUSES", (0.0, 3600.0))
    async with host.running():
        (child,) = host.children("work-1")
        for kills in range(1, 8):
            os.kill(child.pid or 0, signal.SIGKILL)
            await auntil(lambda: child.starts == kills + 1 and child.ready.is_set(), "the replacement")  # noqa: B023
        assert child.state == "ready"
        assert "FATAL" not in caplog.text


async def test_a_worker_above_its_memory_limit_is_killed(
    host: Host, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("chappe.supervisor.supervisor._LOOK", 0.01)
    host.settings = msgspec.structs.replace(host.settings, pools={"work": Pool(processes=1, concurrency=1, memory_limit=100)})
    async with host.running():
        (worker,) = host.children("work-1")
        pid = worker.pid
        monkeypatch.setattr(worker, "memory", lambda: 101 if worker.pid == pid else 50)
        await auntil(lambda: worker.pid not in (pid, None) and worker.ready.is_set(), "it to be replaced")
        assert "holds 101 MiB, more than its memory_limit of 100, and is killed" in caplog.text


async def test_w4_r11_a_pool_has_as_many_processes_as_are_wanted_of_it(host: Host) -> None:
    async with host.running():
        host.supervisor.pools.want("work", "3")
        await host.supervisor.fit()
        await auntil(lambda: host.children("work-2") and host.children("work-3"), "two more")
        host.supervisor.pools.want("work", None)
        await host.supervisor.fit()
        await auntil(lambda: [child.spec.name for child in host.supervisor.running] == ["work-1"], "the last ones to end")
