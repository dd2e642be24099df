"""Workers that die, drain, pause, are renewed and replaced."""

import json
import os
import signal
import time

import pytest

from ..waiting import until
from .conftest import Mill

TWO = """
[pools.mill]
processes = 2
concurrency = 4
"""
ONE = """
[pools.mill]
processes = 1
concurrency = {slots}
"""


def test_w9_what_a_killed_worker_ran_runs_elsewhere_at_once(mill: Mill) -> None:
    mill.configure(TWO.replace("concurrency = 4", "concurrency = 1"))
    mill.run("--no-gateway", "--no-scheduler")
    mill.send(*(f"Work(name='w{n}', seconds=30)" for n in range(6)))
    until(lambda: len(mill.lines("start")) == 2)
    first = mill.lines("start")[0]
    victim = first.pid
    (other,) = {line.pid for line in mill.lines("start")} - {victim}
    os.kill(victim, signal.SIGKILL)
    killed = time.time()
    mill.release()
    again = until(lambda: [line for line in mill.lines("start") if line.name == first.name and line.at > killed])
    assert again[0].pid != victim
    assert again[0].attempt == 1, "its death is counted apart from its attempts"
    until(lambda: len(set(mill.names("end"))) == 6)
    assert {line.attempt for line in mill.lines("end")} == {1}
    assert other
    until(lambda: mill.rows()["mill-1"].starts + mill.rows()["mill-2"].starts == 3)
    assert mill.rows()["mill-1"].crashes + mill.rows()["mill-2"].crashes == 0, "a message explains the death: the next start is not delayed"
    mill.end()


def test_a_message_that_kills_its_worker_three_times_is_a_dead_letter_and_its_neighbours_are_not_blamed(mill: Mill) -> None:
    mill.configure(ONE.format(slots=10))
    mill.run("--no-gateway", "--no-scheduler")
    mill.send(*(f"Once(name='n{n}')" for n in range(5)), "Deadly()", *(f"Once(name='n{n}')" for n in range(5, 20)))
    until(lambda: len(set(mill.names("end"))) == 20 and mill.letters(), "everything to end")
    assert [line.attempt for line in mill.lines("start") if line.name == "deadly"] == [1, 1, 1]
    assert {line.attempt for line in mill.lines("end")} == {1}
    (letter,) = mill.letters()
    assert (letter["type"], letter["reason"]) == ("deadly", "worker_lost")
    shown = json.loads(mill.chappe("dead", "show", str(letter["number"])).stdout)
    (shown,) = shown if isinstance(shown, list) else [shown]
    assert (shown["attempts"], shown["deaths"]) == (1, 3)
    assert len(shown["history"]) == 3
    assert all("died while it ran this" in death["error"] for death in shown["history"])
    mill.end()


def test_term_finishes_what_runs_and_gives_the_rest_back_uncounted(mill: Mill) -> None:
    mill.configure(ONE.format(slots=2))
    mill.run("--no-gateway", "--no-scheduler")
    mill.send(*(f"Work(name='w{n}', seconds=600)" for n in range(6)))
    until(lambda: len(mill.names("start")) == 2)
    assert mill.process is not None
    mill.process.send_signal(signal.SIGTERM)
    until(lambda: "for what runs: 2 messages" in mill.errors(), "the worker to hear it")
    assert mill.queues()["work"]["ready"] == 4
    mill.release()
    assert mill.process.wait(60) == 0
    assert sorted(mill.names("end")) == sorted(mill.names("start")) == ["w0", "w1"]
    assert mill.queues()["work"]["ready"] == 4
    mill.run("--no-gateway", "--no-scheduler")
    until(lambda: len(mill.names("end")) == 6)
    assert {line.attempt for line in mill.lines("end")} == {1}
    mill.end()


def test_what_does_not_end_within_the_grace_is_cut_off_and_given_back_uncounted(mill: Mill) -> None:
    mill.configure("grace = 0.5\n" + ONE.format(slots=2))
    mill.run("--no-gateway", "--no-scheduler")
    mill.send("Work(name='long', seconds=30)")
    until(lambda: mill.names("start"))
    mill.end(signal.SIGTERM)
    assert mill.names("end") == []
    mill.release()
    mill.run("--no-gateway", "--no-scheduler")
    until(lambda: mill.names("end") == ["long"])
    assert mill.lines("end")[0].attempt == 1
    mill.end()


@pytest.mark.parametrize("signals", [(signal.SIGINT, signal.SIGINT), (signal.SIGQUIT,)])
def test_a_second_int_or_a_quit_ends_a_worker_at_once_and_gives_back(mill: Mill, signals: tuple[signal.Signals, ...]) -> None:
    mill.configure(ONE.format(slots=2))
    mill.run("--no-gateway", "--no-scheduler")
    mill.send("Work(name='long', seconds=60)")
    first = until(lambda: mill.lines("start"))[0]
    os.kill(first.pid, signals[0])
    for number in signals[1:]:
        time.sleep(0.3)  # the first one is being obeyed: it waits for what runs
        assert mill.names("end") == []
        os.kill(first.pid, number)
    again = until(lambda: mill.lines("start")[1:])[0]
    assert again.attempt == 1, "given back, not counted"
    mill.release()
    until(lambda: mill.names("end") == ["long"])
    mill.end()


def test_tstp_pauses_and_cont_resumes(mill: Mill) -> None:
    mill.configure(ONE.format(slots=2))
    mill.run("--no-gateway", "--no-scheduler")
    assert mill.process is not None
    mill.send("Work(name='running', seconds=30)")
    until(lambda: mill.names("start"))
    mill.process.send_signal(signal.SIGTSTP)
    until(lambda: "takes nothing new until it gets SIGCONT" in mill.errors(), "the worker to hear it")
    mill.send(*(f"Work(name='w{n}')" for n in range(5)))
    mill.release()
    until(lambda: mill.names("end") == ["running"], "what runs goes on")
    time.sleep(0.5)  # nothing is to happen
    assert mill.names("start") == ["running"]
    mill.process.send_signal(signal.SIGCONT)
    until(lambda: len(mill.names("end")) == 6)
    mill.end()


def test_ttin_writes_the_stacks_of_tasks_and_threads(mill: Mill) -> None:
    mill.configure(ONE.format(slots=2))
    mill.run("--no-gateway", "--no-scheduler")
    assert mill.process is not None
    mill.send("Work(name='running', seconds=30)")
    until(lambda: mill.names("start"))
    worker = mill.pid("mill-1")
    mill.process.send_signal(signal.SIGTTIN)
    until(lambda: f"process {worker}" in mill.errors() and "slot-" in mill.errors() and " work\n" in mill.errors())
    assert "mill.py" in mill.errors()
    mill.release()
    until(lambda: mill.names("end") == ["running"], "it goes on as if nothing was")
    mill.end()


def test_hup_replaces_the_workers_one_by_one_and_nothing_is_lost(mill: Mill) -> None:
    mill.configure(TWO)
    mill.run("--no-gateway", "--no-scheduler")
    assert mill.process is not None
    before = {mill.pid("mill-1"), mill.pid("mill-2")}
    mill.send(*(f"Work(name='w{n}', seconds=0.02)" for n in range(300)))
    until(lambda: len(mill.names("end")) > 5)
    mill.process.send_signal(signal.SIGHUP)
    until(lambda: mill.rows()["mill-1"].starts == mill.rows()["mill-2"].starts == 2)
    until(lambda: len(mill.names("end")) >= 300)
    assert sorted(mill.names("end")) == sorted(f"w{n}" for n in range(300)), "each ran exactly once"
    assert {line.attempt for line in mill.lines("end")} == {1}
    assert not before & {mill.pid("mill-1"), mill.pid("mill-2")}
    assert mill.rows()["mill-1"].crashes == mill.rows()["mill-2"].crashes == 0
    assert mill.rows()["engine"].starts == 1, "the engine holds no user code and stays"
    mill.end()


def test_w5_r12_renewal_after_so_many_messages_is_no_crash_and_costs_no_pause(mill: Mill) -> None:
    mill.configure(ONE.format(slots=4) + "max_messages = 20\n")
    mill.run("--no-gateway", "--no-scheduler")
    mill.send(*(f"Work(name='w{n}')" for n in range(50)))
    until(lambda: len(mill.names("end")) >= 50)
    until(lambda: mill.rows()["mill-1"].starts == 3)
    row = mill.rows()["mill-1"]
    assert (row.crashes, row.planned_ends) == (0, 2)
    handled = [line.pid for line in mill.lines("end")]
    assert sorted(handled.count(pid) for pid in set(handled)) == [10, 20, 20]
    assert {line.attempt for line in mill.lines("end")} == {1}
    mill.end()


def test_a_hung_handler_ends_its_worker_after_kill_after_and_is_retried(mill: Mill) -> None:
    mill.configure(ONE.format(slots=2))
    mill.run("--no-gateway", "--no-scheduler")
    mill.send("Hang()")
    until(lambda: mill.names("end") == ["hang"])
    first, second = mill.lines("start")
    assert (first.attempt, second.attempt) == (1, 2)
    assert first.pid != second.pid
    assert "ran longer than its kill_after" in mill.errors()
    assert mill.rows()["mill-1"].crashes == 0, "its message explains the death"
    mill.send("HangsAlways()")
    (letter,) = until(mill.letters, "the message that hangs always to be dead")
    assert (letter["reason"], letter["attempts"]) == ("attempts spent", 2)
    assert "kill_after of 0.3 s" in letter["last error"]
    assert [line.attempt for line in mill.lines("start") if line.name == "always"] == [1, 2]
    mill.end()


def test_a_worker_that_is_told_to_be_quiet_before_it_can_work_takes_nothing_until_it_may(mill: Mill) -> None:
    worker = mill.start("worker", "-Q", "work")
    until(lambda: "waiting for the engine" in mill.errors(), "the worker to look for its engine")
    worker.send_signal(signal.SIGTSTP)
    mill.start("engine")
    until(lambda: "serves work" in mill.errors(), "the worker to be there")
    mill.send("Work(name='w')")
    time.sleep(0.5)  # nothing happens, and that cannot be waited for
    assert mill.names("start") == []
    worker.send_signal(signal.SIGCONT)
    until(lambda: mill.names("start") == ["w"])


@pytest.mark.timeout(60)
def test_a_child_that_a_handler_forks_and_that_comes_back_is_ended_and_settles_nothing(mill: Mill) -> None:
    mill.configure(ONE.format(slots=4))
    mill.run("--no-gateway", "--no-scheduler")
    forks = ["Fork(name='async')", "Fork(name='task')", "ForkInThread(name='thread')"]
    mill.send(*forks, *(f"Work(name='n{n}')" for n in range(20)), *forks)
    until(lambda: len(mill.lines("child")) == 6 and len(mill.names("end")) == 20, "everything to be handled", 30)
    assert {line.attempt for line in mill.lines("child")} == {70}, "each child was ended by us"
    assert sorted(mill.names("end")) == sorted(f"n{n}" for n in range(20)), "no child ran a message"
    assert {line.pid for line in mill.lines()} == {mill.pid("mill-1")}
    until(lambda: mill.queues()["work"]["done"] == 26)
    assert mill.letters() == []
    assert mill.errors().count("called os.fork() and its child") == 6
    mill.end()
