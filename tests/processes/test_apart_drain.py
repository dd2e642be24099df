"""How fast other messages drain beside handlers that compute in processes of their own (issue 13: 0.8 of without, 0.43 with threads)."""

import statistics
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..waiting import until
from .conftest import Mill

pytestmark = [pytest.mark.proof, pytest.mark.timeout(600)]
MESSAGES = 50_000
APPLICATION = f"""
import pathlib, time
from chappe import App, Command
from mill import write

app = App("beside")
here = pathlib.Path(__file__).parent
seen = 0


class Quick(Command, queue="quick"):
    pass


class Burn(Command, queue="burn", process=True):
    name: str


class BurnHere(Command, queue="burn"):
    name: str


@app.handles(Quick)
async def quick(command: Quick):
    global seen
    seen += 1
    if seen % {MESSAGES} in (1, 0):
        write("quick", seen)


@app.handles(Burn)
@app.handles(BurnHere)
def burn(command):
    write("start", command.name)
    while not (here / command.name).exists():
        sum(range(10_000))
    write("end", command.name)
"""


@pytest.fixture
def beside(tmp_path: Path) -> Iterator[Mill]:
    mill = Mill(tmp_path)
    (mill.folder / "beside.py").write_text(APPLICATION)
    mill.environment["CHAPPE_APP"] = "beside:app"
    mill.configure("[pools.all]\nprocesses = 1\nconcurrency = 8\n")
    mill.run("--no-gateway", "--no-scheduler")
    yield mill
    mill.close()


def drained(mill: Mill) -> float:
    """Return the seconds in which what waits is handled, from the first to the last."""
    before = len(mill.lines("quick"))
    mill.chappe("pause", "quick")
    mill.script(f"from beside import *\napp.send([Quick()] * {MESSAGES})\napp.close()").communicate(timeout=120)
    mill.chappe("resume", "quick")
    first, last = until(lambda: found if len(found := mill.lines("quick")[before:]) == 2 else [], "all to be handled", 300)
    return last.at - first.at


@pytest.mark.parametrize("kind", ["Burn", "BurnHere"])
def test_four_that_burn_leave_others_most_of_their_drain_if_they_do_so_in_processes_of_their_own(beside: Mill, kind: str) -> None:
    drained(beside)
    alone, with_them = list[float](), list[float]()
    for turn in range(7):
        alone.append(drained(beside))
        names = [f"{turn}{number}" for number in range(4)]
        burning = ", ".join(f"{kind}(name='{name}')" for name in names)
        beside.script(f"from beside import *\napp.send([{burning}])\napp.close()").communicate(timeout=60)
        until(lambda: set(names) <= set(beside.names("start")), "all four to burn")  # noqa: B023
        with_them.append(drained(beside))
        for name in names:
            (beside.folder / name).touch()
        until(lambda: set(names) <= set(beside.names("end")), "all four to end")  # noqa: B023
    share = statistics.median(alone) / statistics.median(with_them)
    print(f"{kind}: {share:.2f} of {MESSAGES / statistics.median(alone):.0f}/s; {alone} alone, {with_them} beside them")
    assert share >= 0.8 if kind == "Burn" else share < 0.8
