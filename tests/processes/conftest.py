"""`chappe run` as real processes in a folder, with a small application whose handlers write what they do."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest

from .. import commands
from ..waiting import until

APPLICATION = """
import asyncio, os, pathlib, sys, time
from chappe import App, Command, Context, Retry, every

app = App("mill")
here = pathlib.Path(__file__).parent


def write(*words):
    handle = os.open(here / "log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(handle, (" ".join(map(str, (f"{time.time():.6f}", os.getpid(), *words))) + "\\n").encode())
    os.close(handle)


class Work(Command, queue="work", retry=Retry(20, delay=0.0, jitter=0.0)):
    name: str
    seconds: float = 0.0


class Once(Command, queue="work", retry=Retry(1)):
    name: str


class Deadly(Command, queue="work", retry=Retry(1)):
    name: str = "deadly"


class HangsAlways(Command, queue="hang", kill_after=0.3, retry=Retry(2, delay=0.0, jitter=0.0)):
    name: str = "always"


class Hang(Command, queue="hang", kill_after=0.5, retry=Retry(2, delay=0.0, jitter=0.0)):
    name: str = "hang"


class Busy(Command, queue="work"):
    seconds: float


class Fork(Command, queue="work"):
    name: str


class ForkInThread(Command, queue="work"):
    name: str


class Exit(Command, queue="work", retry=Retry(3, delay=0.0, jitter=0.0)):
    name: str = "exit"


class Tick(Command, queue="ticks"):
    pass


@app.handles(Work)
async def work(command: Work, context: Context):
    write("start", command.name, context.attempt)
    if command.seconds:
        deadline = time.monotonic() + command.seconds
        while time.monotonic() < deadline and not (here / "release").exists():
            await asyncio.sleep(0.01)
    write("end", command.name, context.attempt)


@app.handles(Once)
async def once(command: Once, context: Context):
    write("start", command.name, context.attempt)
    await asyncio.sleep(0.05)
    write("end", command.name, context.attempt)


@app.handles(Deadly)
async def deadly(command: Deadly, context: Context):
    write("start", command.name, context.attempt)
    await asyncio.sleep(0.05)
    os.kill(os.getpid(), 9)


@app.handles(HangsAlways)
async def hangs_always(command: HangsAlways, context: Context):
    write("start", command.name, context.attempt)
    time.sleep(60)


@app.handles(Hang)
async def hang(command: Hang, context: Context):
    write("start", command.name, context.attempt)
    if context.attempt == 1:
        time.sleep(60)
    write("end", command.name, context.attempt)


@app.handles(Busy)
async def busy(command: Busy, context: Context):
    write("start", "busy", context.attempt)
    time.sleep(command.seconds)
    write("end", "busy", context.attempt)


def fork(command):
    # The child comes back as if it were its parent.
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        write("child", command.name, os.waitstatus_to_exitcode(status))


@app.handles(Fork)
async def forks(command: Fork):
    if command.name == "task":
        await asyncio.create_task(forking(command))
    else:
        fork(command)


async def forking(command):
    fork(command)


@app.handles(ForkInThread)
def forks_in_a_thread(command: ForkInThread):
    fork(command)


class Now(Command, inline=True):
    what: str


@app.handles(Now)
async def now(command: Now) -> str:
    write("start", command.what)
    match command.what:
        case "fork":
            fork(Fork(name="now"))
        case "fork-in-task":
            await asyncio.create_task(forking(Fork(name="now")))
        case "exit":
            asyncio.get_running_loop().call_later(0, sys.exit, 3)
            await asyncio.sleep(60)
        case "stop":
            asyncio.get_running_loop().stop()
            await asyncio.sleep(60)
    return "done"


@app.handles(Exit)
async def leave(command: Exit, context: Context):
    async def end():
        raise SystemExit(3)

    write("start", command.name, context.attempt)
    await asyncio.create_task(end())


@app.handles(Tick)
async def tick(command: Tick):
    write("tick")
"""


class Line(NamedTuple):
    """One line that a handler wrote."""

    at: float
    pid: int
    word: str
    name: str
    attempt: int


class Row(NamedTuple):
    """One process in the status file of `chappe run`."""

    name: str
    pid: int
    starts: int
    crashes: int
    planned_ends: int


class Mill:
    """A folder in which `chappe run` may run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None
        (folder / "mill.py").write_text(APPLICATION)
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith("CHAPPE_") and k not in ("PORT", "LOG_LEVEL")}
        self.environment |= {"CHAPPE_APP": "mill:app", "CHAPPE_PORT": "0", "CHAPPE_STATE_DIR": str(folder / "state")}
        self.started: list[subprocess.Popen[bytes]] = []
        self.said_before = ""
        self.configure("[pools.default]\nprocesses = 1\nconcurrency = 100\n")  # the same on every machine

    def configure(self, text: str) -> None:
        """Write chappe.toml."""
        (self.folder / "chappe.toml").write_text(text)

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start one process of Chappe's."""
        with (self.folder / "stderr").open("ab") as errors:
            command = [sys.executable, "-m", "chappe", *arguments]
            process = subprocess.Popen(command, cwd=self.folder, env=self.environment, stdout=errors, stderr=errors)
        self.started.append(process)
        return process

    def run(self, *arguments: str) -> None:
        """Start `chappe run` and wait until all its processes are ready."""
        before = self.ready()
        self.said_before = self.errors()
        self.process = self.start("run", *arguments)
        until(
            lambda: self.ready() > before or self.process is None or self.process.poll() is not None,
            "chappe run to be ready",
        )
        assert self.process.poll() is None, self.errors()

    def ready(self) -> int:
        """Return how often `chappe run` said that all is ready."""
        return len(re.findall(r"process(?:es are| is) ready", self.errors()))

    def chappe(self, *arguments: str, code: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run another verb."""
        done = commands.run(self.folder, {**self.environment, **environment}, arguments)
        out, err = done.out.decode(), done.err.decode()
        assert done.code == code, f"{done.code}: {out}{err}"
        return subprocess.CompletedProcess(arguments, done.code, out, err)

    def script(self, text: str, *arguments: str) -> subprocess.Popen[str]:
        """Start a Python program beside the application."""
        return subprocess.Popen(
            [sys.executable, "-c", text, *arguments], cwd=self.folder, env=self.environment, text=True, stdout=subprocess.PIPE
        )

    def send(self, *messages: str) -> None:
        """Send messages written as Python, like `Work(name="a")`, in one program."""
        done = commands.program(self.folder, self.environment, f"from mill import *\napp.send([{', '.join(messages)}])\napp.close()")
        assert done.code == 0, done.err.decode()

    def letters(self) -> list[dict[str, Any]]:
        """List dead letters."""
        return json.loads(self.chappe("dead", "list", "--json").stdout)

    def queues(self) -> dict[str, dict[str, Any]]:
        """Return the counts of all queues."""
        return {q["name"]: q for q in json.loads(self.chappe("queues", "--json").stdout)}

    def lines(self, word: str = "") -> list[Line]:
        """Read what handlers wrote."""
        path = self.folder / "log"
        if not path.exists():
            return []
        whole, _, _ = path.read_text().rpartition("\n")  # the last one may be half written
        words = [line.split() for line in whole.splitlines()]
        found = [Line(float(w[0]), int(w[1]), w[2], w[3] if len(w) > 3 else "", int(w[4]) if len(w) > 4 else 0) for w in words]
        return [line for line in found if not word or line.word == word]

    def names(self, word: str) -> list[str]:
        """Return the names in lines of one word, in order."""
        return [line.name for line in self.lines(word)]

    def errors(self) -> str:
        """Read what all processes said."""
        path = self.folder / "stderr"
        return path.read_text() if path.exists() else ""

    def rows(self) -> dict[str, Row]:
        """Read the status file."""
        found = [*self.folder.glob("chappe.db.processes"), *self.folder.glob("state/*.processes")]
        if not found:
            return {}
        text = found[0].read_text()
        rows = [line.split("\t") for line in text.splitlines()]
        return {r[0]: Row(r[0], int(r[1] or 0), int(r[2]), int(r[3]), int(r[4])) for r in rows}

    def pid(self, name: str) -> int:
        """Return the process id of one process that runs."""
        return until(lambda: self.rows()[name].pid)

    def address(self) -> str:
        """Return the address of the gateway, as it said it since the last `run`: its line may come after the supervisor's that all are ready."""
        return until(lambda: re.findall(r"gateway listens on (http://[\d.:]+)", self.errors().removeprefix(self.said_before)))[-1]

    def release(self) -> None:
        """Let every `Work` end."""
        (self.folder / "release").touch()

    def hold(self) -> None:
        """Have them wait again."""
        (self.folder / "release").unlink()

    def end(self, number: int = signal.SIGTERM, seconds: float = 120) -> None:
        """End `chappe run` with a signal."""
        assert self.process is not None
        self.process.send_signal(number)
        self.process.wait(seconds)

    def processes(self) -> list[psutil.Process]:
        """Find all processes that work in this folder."""
        found: list[psutil.Process] = []
        for process in psutil.process_iter():
            try:
                if process.cwd() == str(self.folder) and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return found

    def close(self) -> None:
        """Leave nothing running."""
        for started in self.started:
            if started.poll() is None:
                started.kill()
                started.wait()
        for process in self.processes():
            if process.pid != os.getpid():
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()


@pytest.fixture
def mill(tmp_path: Path) -> Iterator[Mill]:
    """A folder with the application; whatever runs there is ended after the test."""
    mill = Mill(tmp_path)
    yield mill
    print(mill.errors())  # shown where the test failed: its folder is gone with the run
    mill.close()


def has_ended(pid: int) -> bool:
    """Tell whether a process runs no more, whoever is to clear it away."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


Wait = Callable[..., Any]
