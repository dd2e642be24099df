"""The engine killed under a stream of sends."""

import os
import signal

from ..waiting import until
from .conftest import Mill

SENDER = """
import pathlib, sys
from mill import *
from chappe import BrokerUnavailable, Unconfirmed
sent, unknown = 0, 0
with open(f"acknowledged-{sys.argv[1]}", "w") as log:
    while not pathlib.Path("enough").exists():
        name = f"{sys.argv[1]}-{sent}"
        try:
            app.send(Work(name=name))
        except (BrokerUnavailable, Unconfirmed):
            unknown += 1
        else:
            log.write(name + "\\n")
            log.flush()
        sent += 1
app.close()
print(sent, unknown)
"""


def acknowledged(mill: Mill) -> list[str]:
    """Return the names of what senders were told to be stored; the last line may be half written."""
    return [name for who in ("a", "b") for name in (mill.folder / f"acknowledged-{who}").read_text().split("\n")[:-1]]


def test_nothing_acknowledged_is_lost_when_the_engine_is_killed_and_workers_come_back(mill: Mill) -> None:
    mill.environment["CHAPPE_DEADLINE"] = "60"
    mill.configure("[pools.mill]\nprocesses = 2\nconcurrency = 10\n")
    mill.run("--no-gateway", "--no-scheduler")
    senders = [mill.script(SENDER, name) for name in ("a", "b")]
    for kill in range(2):
        until(lambda: len(mill.names("end")) > 50 * (kill + 1))  # noqa: B023 - called at once
        starts = mill.rows()["engine"].starts
        os.kill(mill.pid("engine"), signal.SIGKILL)
        until(lambda: mill.rows()["engine"].starts > starts)  # noqa: B023
    until(lambda: len(acknowledged(mill)) > 200, "messages to be acknowledged")
    (mill.folder / "enough").touch()
    said = [sender.communicate(timeout=200)[0] for sender in senders]
    assert [sender.returncode for sender in senders] == [0, 0]
    until(lambda: set(acknowledged(mill)) <= set(mill.names("end")), "everything acknowledged to be handled")
    assert [int(text.split()[1]) for text in said] == [0, 0], "an engine that comes back within the deadline is no error to a sender"
    assert mill.rows()["mill-1"].starts == mill.rows()["mill-2"].starts == 1, "workers reconnect, they are not restarted"
    mill.end()


def test_what_runs_while_the_engine_dies_ends_once(mill: Mill) -> None:
    mill.configure("[pools.mill]\nprocesses = 1\nconcurrency = 10\n")
    mill.run("--no-gateway", "--no-scheduler")
    mill.send(*(f"Work(name='w{n}', seconds=30)" for n in range(8)))
    until(lambda: len(mill.names("start")) == 8)
    starts = mill.rows()["engine"].starts
    os.kill(mill.pid("engine"), signal.SIGKILL)
    until(lambda: mill.rows()["engine"].starts > starts)
    mill.release()
    until(lambda: mill.queues()["work"]["ready"] == mill.queues()["work"]["running"] == 0 and len(set(mill.names("end"))) == 8)
    assert sorted(mill.names("end")) == sorted(f"w{n}" for n in range(8)), "the workers came back with what they held"
    mill.end()
