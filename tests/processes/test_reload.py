"""Reloads: a new release takes over without a refused request, and one that cannot run changes nothing (rows D19, D24, M11)."""

import os
import signal
from pathlib import Path

import pytest

from ..faults import deploys
from ..waiting import until
from .conftest import Mill

LONG = 90.0


def test_deploys_under_load_lose_refuse_and_bury_nothing_and_broken_ones_are_refused(tmp_path: Path) -> None:
    result = deploys.run(tmp_path, deploys=7, broken=5, rate=40.0)
    assert (result["deploys"], result["broken"]) == (2, 5)
    assert result["posted"] > 0
    assert (result["refused"], result["lost"], result["dead"]) == ({}, 0, 0), result


def test_a_reload_brings_the_pools_of_the_new_settings(mill: Mill) -> None:
    mill.configure("[pools.mill]\nprocesses = 1\nconcurrency = 1\n[pools.other]\nqueues = ['hang']\nprocesses = 1\n")
    mill.run("--no-gateway", "--no-scheduler")
    assert mill.process is not None
    mill.configure("[pools.mill]\nprocesses = 2\nconcurrency = 1\nexclude = ['hang']\n")
    mill.process.send_signal(signal.SIGHUP)
    until(lambda: "run the new release" in mill.errors(), "the reload", LONG)
    assert list(mill.rows()) == ["supervisor", "engine", "mill-1", "mill-2"]
    assert mill.errors().count("mill serves ticks, work with 1 slot") == 2
    mill.end()


def test_a_worker_that_dies_is_replaced_by_the_release_in_place_and_not_by_what_is_on_the_disk(mill: Mill) -> None:
    mill.configure("[pools.mill]\nprocesses = 1\nconcurrency = 1\n")
    mill.run("--no-gateway", "--no-scheduler")
    (mill.folder / "mill.py").write_text("this is no python")
    mill.configure("this is no toml")
    os.kill(mill.pid("mill-1"), signal.SIGKILL)
    until(lambda: mill.errors().count("mill serves") == 2, "another worker", LONG)
    mill.end()


@pytest.mark.parametrize("fork", ["true", "false"])
def test_a_release_that_cannot_be_imported_leaves_every_process_as_it_is(mill: Mill, fork: str) -> None:
    mill.configure(f"fork = {fork}\n[pools.mill]\nprocesses = 1\nconcurrency = 1\n")
    mill.run("--no-scheduler")
    assert mill.process is not None
    before = {name: row.pid for name, row in mill.rows().items()}
    good = (mill.folder / "mill.py").read_text()
    (mill.folder / "mill.py").write_text(good + "\nimport no_such_package\n")
    mill.process.send_signal(signal.SIGHUP)
    until(lambda: "the reload is refused, nothing was changed" in mill.errors(), "the refusal", LONG)
    assert 'no module is called "no_such_package"' in mill.errors() or "No module named 'no_such_package'" in mill.errors()
    assert {name: row.pid for name, row in mill.rows().items()} == before
    mill.end()


def test_workers_go_on_when_the_process_that_holds_the_application_dies_and_are_replaced_by_another(mill: Mill) -> None:
    mill.configure("[pools.mill]\nprocesses = 1\nconcurrency = 1\n")
    mill.run("--no-gateway", "--no-scheduler")
    (launcher,) = [
        process.pid for process in mill.processes() if process.name() == "chappe launcher" or "launcher" in " ".join(process.cmdline())
    ]
    worker = mill.pid("mill-1")
    os.kill(launcher, signal.SIGKILL)
    mill.send("Work(name='on')")
    until(lambda: mill.names("end") == ["on"], "the worker to go on", LONG)
    os.kill(worker, signal.SIGKILL)
    until(lambda: mill.errors().count("mill serves") == 2, "another worker", LONG)
    mill.send("Work(name='again')")
    until(lambda: mill.names("end") == ["on", "again"], "it to work", LONG)
    mill.end()


def test_an_application_with_threads_or_connections_of_its_own_is_not_forked(mill: Mill) -> None:
    source = mill.folder / "mill.py"
    source.write_text(
        source.read_text() + "\nimport sqlite3, threading\ndatabase = sqlite3.connect(here / 'own.db')\n"
        "threading.Thread(target=threading.Event().wait, name='poller', daemon=True).start()\n"
    )
    mill.run("--no-gateway", "--no-scheduler")
    assert f"(thread poller, {mill.folder}/own.db), so its processes are not forked" in mill.errors()
    mill.send("Work(name='w')")
    until(lambda: mill.names("end") == ["w"], "it to work", LONG)
    mill.end()
