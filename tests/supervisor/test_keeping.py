"""What the end of a process means while all run; each process is a shell that says what it is told to."""

import asyncio
import itertools
import logging
import os
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from chappe.engines.file.running_tables import folder_of
from chappe.settings import Pool, Settings
from chappe.supervisor.child import Child
from chappe.supervisor.supervisor import Supervisor
from chappe.worker.running_table import RunningTable

from ..waiting import auntil

READY = 'echo "$TABLE" > /dev/fd/$CHAPPE_READY_FD; exec sleep 600'


class Host:
    """A supervisor with one worker that runs a message."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.settings = Settings(broker=f"sqlite:///{folder}/chappe.db", fork=False, pools={"work": Pool(processes=1, concurrency=1)})
        self.table = RunningTable(folder_of(self.settings.path), 1)
        self.suspects = READY
        monkeypatch.setenv("TABLE", str(self.table.path))
        monkeypatch.setattr("chappe.supervisor.launcher.child_command", self._command)
        monkeypatch.setattr(Child, "silence", lambda *_: 0.0)  # a shell gives no signs of life
        self.supervisor = Supervisor(self.settings, gateway=False, scheduler=False)

    def _command(self, arguments: Sequence[str]) -> list[str]:
        script = "exit 0" if arguments[0] == "launcher" else self.suspects if "--suspects" in arguments else READY
        return ["sh", "-c", script, *arguments]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
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
