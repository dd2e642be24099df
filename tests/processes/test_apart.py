"""Handlers in processes of their own, beside others of the same worker that are not: the capability `process`."""

import contextlib
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from ..waiting import until
from .conftest import Mill

APPLICATION = """
import asyncio, os, pathlib, subprocess, time
from typing import Iterator
from chappe import App, Command, Context, Process, Reject, Retry, RetryLater
from mill import write

app = App("press")
AGAIN = Retry(2, delay=0.0, jitter=0.0)


class Tool:
    def __init__(self) -> None:
        self.pid = os.getpid()


@app.provides
def tool() -> Iterator[Tool]:
    yield Tool()
    write("closed", "tool")


class Near(Command, queue="press", retry=1):
    name: str


class Count(Command, queue="press", process=True, retry=1, results=True):
    to: int


class Spread(Command, queue="press", process=True, retry=1):
    pass


class NeverDeclared(Command, queue="elsewhere"):
    pass


class Burn(Command, queue="press", process=True, retry=AGAIN, kill_after=600):
    name: str


class Hang(Command, queue="press", process=True, retry=Retry(100, delay=0.0, jitter=0.0), kill_after=0.5):
    name: str = "hang"


class Die(Command, queue="press", process=True, retry=AGAIN):
    name: str = "die"


class Leave(Command, queue="press", process=True, retry=1):
    name: str = "leave"


class Greedy(Command, queue="press", process=Process(memory=700), retry=1):
    name: str = "greedy"


class Refuse(Command, queue="press", process=True, retry=1):
    how: str


class Strew(Command, queue="press", process=True, retry=1):
    dies: bool


@app.handles(Near)
async def near(command: Near, context: Context):
    write("start", command.name, context.attempt)
    while not (pathlib.Path(__file__).parent / command.name).exists():
        await asyncio.sleep(0.01)
    write("end", command.name, context.attempt)


@app.handles(Count)
def count(command: Count, tool: Tool, context: Context):
    context.progress(command.to, command.to, "counted")
    context.send(Near(name="sent"))
    yield Near(name="yielded")
    return {"sum": sum(range(command.to)), "pid": os.getpid(), "tool": tool.pid, "key": context.idempotency_key()}


@app.handles(Spread)
def spread(command: Spread):
    yield NeverDeclared()


@app.handles(Burn)
async def burn(command: Burn, context: Context):
    write("start", command.name, context.attempt)
    while not (pathlib.Path(__file__).parent / command.name).exists():
        sum(range(10_000))
    write("end", command.name, context.attempt)


@app.handles(Hang)
def hang(command: Hang, context: Context):
    write("start", command.name, context.attempt)
    time.sleep(600 if context.attempt == 1 else 0)
    write("end", command.name, context.attempt)


@app.handles(Die)
def die(command: Die, context: Context):
    write("start", command.name, context.attempt)
    if context.attempt == 1:
        os.kill(os.getpid(), 9)


@app.handles(Leave)
def leave(command: Leave):
    os._exit(3)


@app.handles(Greedy)
def greedy(command: Greedy):
    return len(bytearray(2 * 1024 ** 3))


@app.handles(Strew)
def strew(command: Strew):
    write("left", str(subprocess.Popen(["sleep", "600"]).pid))
    if command.dies:
        os._exit(4)


@app.handles(Refuse)
def refuse(command: Refuse):
    match command.how:
        case "reject":
            raise Reject("not today")
        case "later":
            raise RetryLater("too early", after=0.0)
        case "class":
            return Process
        case _:
            raise ValueError(command.how)
"""


@pytest.fixture(scope="module")
def press(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mill]:
    mill = Mill(tmp_path_factory.mktemp("press"))
    (mill.folder / "press.py").write_text(APPLICATION)
    mill.environment["CHAPPE_APP"] = "press:app"
    mill.configure("[pools.press]\nprocesses = 1\nconcurrency = 6\n")
    mill.run("--no-gateway", "--no-scheduler")
    for name in ("sent", "yielded"):
        (mill.folder / name).touch()
    yield mill
    mill.close()


@pytest.fixture
def beside(press: Mill) -> Iterator[int]:
    """A message that runs in the worker meanwhile, by the worker's process id: neither is harmed."""
    name = f"beside{len(press.lines())}"
    send(press, f"Near(name='{name}')")
    started = until(lambda: [line for line in press.lines("start") if line.name == name], "the neighbour to run")[0]
    yield started.pid
    (press.folder / name).touch()
    ended = until(lambda: [line for line in press.lines("end") if line.name == name], "the neighbour to end")[0]
    assert (ended.pid, ended.attempt) == (started.pid, 1)
    assert press.pid("press-1") == started.pid


def send(press: Mill, *messages: str) -> list[str]:
    script = f"from press import *\nfor r in app.send([{', '.join(messages)}]): print(r.id)\napp.close()"
    out, _ = press.script(script).communicate(timeout=60)
    return out.split()


def of(press: Mill, word: str, name: str) -> list[int]:
    return [line.attempt for line in press.lines(word) if line.name == name]


def letter(press: Mill, kind: str) -> dict[str, str]:
    return until(lambda: [one for one in press.letters() if one["type"] == kind], f"{kind} to be dead")[0]


def test_what_it_returns_sends_yields_and_says_of_its_progress_arrives_and_its_dependencies_are_made_there(press: Mill) -> None:
    script = "from press import *\nimport json\nprint(json.dumps([app.ask(Count(to=5)), app.ask(Count(to=6))]))\napp.close()"
    first, second = json.loads(press.script(script).communicate(timeout=60)[0])
    assert (first["sum"], second["sum"]) == (10, 15)
    assert first["pid"] == first["tool"] == second["pid"] == second["tool"] != press.pid("press-1"), "it is kept for the next"
    assert first["key"] != second["key"]
    until(lambda: len(of(press, "end", "sent")) == len(of(press, "end", "yielded")) == 2)


def test_what_the_application_never_declared_can_be_sent_from_there_too(press: Mill) -> None:
    send(press, "Spread()", "Spread()")
    until(lambda: press.queues().get("elsewhere", {}).get("ready") == 2, "both to arrive")


@pytest.mark.usefixtures("beside")
def test_a_death_is_a_failed_attempt_of_its_own_message_and_nobody_elses(press: Mill) -> None:
    send(press, "Die()", "Leave()")
    until(lambda: of(press, "start", "die") == [1, 2], "it to be tried again")
    assert "its process ended with exit code 3 while it ran this" in letter(press, "leave")["last error"]
    assert "its process was killed by SIGKILL while it ran this" in press.errors()


@pytest.mark.usefixtures("beside")
def test_kill_after_ends_the_process_and_not_the_worker(press: Mill) -> None:
    send(press, "Hang()")
    until(lambda: of(press, "end", "hang"), "it to be tried again until it is fast enough")
    until(lambda: "its process was ended: it ran longer than its kill_after of 0.5 s" in press.errors(), "the log to say why")


def test_what_burns_leaves_the_processor_to_others_and_cancel_ends_it_in_the_midst_of_it(press: Mill, beside: int) -> None:
    sent = send(press, "Burn(name='cancelled')")
    burner = until(lambda: [line.pid for line in press.lines("start") if line.name == "cancelled"])[0]
    assert burner != beside
    threads = [int(thread.name) for thread in Path(f"/proc/{burner}/task").iterdir()]
    assert {os.sched_getscheduler(thread) for thread in threads} == {os.SCHED_IDLE}
    if (shares := Path(f"/proc/{burner}/autogroup")).exists():
        until(lambda: shares.read_text().endswith(" nice 10\n"), "its session to be nicer than the worker's")
    assert "was running" in press.chappe("cancel", *sent).stdout
    until(lambda: not psutil.pid_exists(burner), "its process to be gone")
    until(lambda: press.queues()["press"]["running"] == 1, "only the neighbour to run")
    assert press.letters() == [one for one in press.letters() if one["type"] != "burn"]


@pytest.mark.usefixtures("beside")
def test_more_memory_than_it_may_hold_is_an_error_that_says_so(press: Mill) -> None:
    send(press, "Greedy()")
    assert "MemoryError: it needs more than the 700 MiB of its Process(memory=700)" in letter(press, "greedy")["last error"]


def test_what_it_raises_is_judged_and_shown_as_anywhere(press: Mill) -> None:
    send(press, "Refuse(how='reject')", "Refuse(how='later')", "Refuse(how='wrong')", "Refuse(how='class')")
    letters = until(lambda: found if len(found := [one for one in press.letters() if one["type"] == "refuse"]) == 3 else [])
    by_reason = {(one["reason"], one["last error"].splitlines()[0]) for one in letters if one["last error"]}
    assert ("attempts spent", "ValueError: wrong") in by_reason
    assert {one["reason"] for one in letters} >= {"not today", "attempts spent: too early", "attempts spent"}
    until(lambda: "done, but its result cannot be written as JSON" in press.errors())


def test_nothing_that_it_started_outlives_a_worker_that_is_killed(press: Mill) -> None:
    send(press, "Burn(name='left')")
    burner = until(lambda: [line.pid for line in press.lines("start") if line.name == "left"])[0]
    family = psutil.Process(press.pid("press-1")).children(recursive=True)
    assert burner in {process.pid for process in family}
    with contextlib.suppress(ProcessLookupError):
        os.kill(press.pid("press-1"), signal.SIGKILL)
    until(lambda: not any(process.is_running() for process in family), "its processes to end with it")
    (press.folder / "left").touch()
    until(lambda: of(press, "end", "left") == [1], "it to run again, with no attempt spent")


def runs(pid: int) -> bool:
    """Tell whether a process is there and no zombie, which is its new parent's matter."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def ends_what_is_left(press: Mill) -> None:
    """Have handlers leave processes behind: of one that dies at its work, and of one that is killed while it is kept for the next."""
    before = len(press.lines("left"))
    send(press, "Strew(dies=True)")
    first = until(lambda: press.lines("left")[before:], "a process to be left")[0]
    until(lambda: not runs(int(first.name)), "it to end with the handler that started it")
    send(press, "Strew(dies=False)")
    second = until(lambda: press.lines("left")[before + 1 :], "another to be left")[0]
    until(lambda: press.queues()["press"]["running"] == 0, "its handler to end")
    assert runs(int(second.name)), "its handler's process is kept for the next"
    os.kill(second.pid, signal.SIGKILL)
    until(lambda: not runs(int(second.name)), "it to end with that process")


def test_what_a_handler_leaves_in_its_group_ends_with_its_process_however_that_ends(press: Mill) -> None:
    ends_what_is_left(press)


def test_where_nothing_is_forked_each_has_an_interpreter_of_its_own(press: Mill) -> None:
    """The last one: it ends what the others share."""
    press.end()
    press.configure("fork = false\n[pools.press]\nprocesses = 1\nconcurrency = 6\n")
    press.run("--no-gateway", "--no-scheduler")
    script = "from press import *\nprint(app.ask(Count(to=5))['pid'])\napp.close()"
    pid = int(press.script(script).communicate(timeout=60)[0])
    assert psutil.Process(pid).parent() == psutil.Process(press.pid("press-1"))
    handler = psutil.Process(pid)
    ends_what_is_left(press)
    press.end()
    until(lambda: not handler.is_running() or handler.status() == psutil.STATUS_ZOMBIE, "its process to end with it")
