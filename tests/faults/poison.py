"""Poison among good messages: `python -m tests.faults.poison --poison 200 --good 20000`.

Ten kinds of messages that end or break their worker, among good ones of which one in a hundred takes five seconds, in a pool of two.
Prints one line of JSON: every poison message is to be dead exactly once, no good one dead or unfinished, each with one attempt; and the
throughput of the good ones beside that of a run without poison.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ..waiting import until

APPLICATION = """
import asyncio, ctypes, os, pathlib, random, signal, sys, time
from chappe import App, Command, Context, Retry

app = App("mill")
here = pathlib.Path(__file__).parent
log = None


def note(*words):
    global log
    if log is None:
        log = os.open(here / "log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(log, (" ".join(map(str, words)) + "\\n").encode())


class Good(Command, queue="mill", retry=Retry(1)):
    number: int
    seconds: float


class Poison(Command, queue="mill", retry=Retry(2, delay=0.0, jitter=0.0)):
    number: int
    kind: str


class Threaded(Command, queue="mill", retry=Retry(2, delay=0.0, jitter=0.0)):
    number: int
    kind: str


class Blocking(Command, queue="mill", retry=Retry(2, delay=0.0, jitter=0.0), kill_after=0.5):
    number: int
    kind: str


async def leave():
    sys.exit("a task that exits")


async def interrupt():
    raise KeyboardInterrupt


@app.handles(Good)
async def good(command: Good, context: Context) -> None:
    await asyncio.sleep(command.seconds)
    note("good", command.number, context.attempt)


@app.handles(Poison)
async def poison(command: Poison) -> None:
    await asyncio.sleep(random.random() / 20)
    match command.kind:
        case "exit":
            os._exit(3)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "segv":
            ctypes.string_at(0)
        case "abort":
            os.abort()
        case "task":
            await asyncio.create_task(leave())
        case "interrupt":
            await asyncio.create_task(interrupt())
        case "stop":
            asyncio.get_running_loop().stop()
            await asyncio.sleep(3600)
        case "generator":
            raise GeneratorExit


@app.handles(Threaded)
def threaded(command: Threaded) -> None:
    time.sleep(0.02)
    os._exit(4)


@app.handles(Blocking)
async def blocking(command: Blocking) -> None:
    time.sleep(60)
"""
KINDS = ("exit", "kill", "segv", "abort", "task", "interrupt", "stop", "generator", "thread", "block")
SEND = """
import json, sys
from mill import *
kinds = {"thread": Threaded, "block": Blocking}
plan = json.load(sys.stdin)
for first in range(0, len(plan), 500):
    app.send([Good(number=n, seconds=what) if isinstance(what, float) else kinds.get(what, Poison)(number=n, kind=what)
              for n, what in plan[first:first + 500]])
app.close()
"""


def run(folder: Path, plan: list[tuple[int, float | str]], processes: int, concurrency: int, patience: float) -> dict[str, Any]:
    """Handle a plan with `chappe run`; return how long the good ones took, and what became of all."""
    folder.mkdir()
    (folder / "mill.py").write_text(APPLICATION)
    (folder / "chappe.toml").write_text(f"[pools.mill]\nprocesses = {processes}\nconcurrency = {concurrency}\n")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("CHAPPE_") and k not in ("PORT", "LOG_LEVEL")}
    environment |= {"CHAPPE_APP": "mill:app", "CHAPPE_LOG_FORMAT": "console", "NO_COLOR": "1"}
    chappe = [sys.executable, "-m", "chappe"]
    subprocess.run([sys.executable, "-c", SEND], cwd=folder, env=environment, input=json.dumps(plan), text=True, check=True)
    wanted = {n for n, what in plan if isinstance(what, float)}
    poison = {n for n, what in plan if isinstance(what, str)}
    with (folder / "stderr").open("ab") as errors:
        started = time.monotonic()
        host = subprocess.Popen([*chappe, "run", "--no-gateway", "--no-scheduler"], cwd=folder, env=environment, stderr=errors)
    try:
        until(lambda: len(_done(folder)) >= len(wanted), "the good messages", patience)
        took = time.monotonic() - started
        until(lambda: len(_letters(folder, chappe, environment)) >= len(poison), "the poison to be dead", patience)
        letters = _letters(folder, chappe, environment, bodies=True)
        queue = json.loads(
            subprocess.run([*chappe, "queues", "--json"], cwd=folder, env=environment, capture_output=True, check=True).stdout
        )
    finally:
        host.terminate()
        host.wait(60)
    done = [line.split() for line in (folder / "log").read_text().splitlines()]
    times = collections.Counter(int(words[1]) for words in done)
    dead = collections.Counter(int(letter["body"]["number"]) for letter in letters)
    return {
        "seconds": round(took, 1),
        "good_unfinished": len(wanted - set(times)),
        "good_dead": len(set(dead) & wanted),
        "good_again": sum(1 for count in times.values() if count > 1),
        "good_attempts_spent": sum(1 for words in done if words[2] != "1"),
        "poison_not_dead": len(poison - set(dead)),
        "poison_dead_twice": sum(1 for number, count in dead.items() if number in poison and count > 1),
        "left": sum(q["ready"] + q["running"] + q["delayed"] for q in queue),
        "reasons": dict(collections.Counter(letter["reason"] for letter in letters)),
    }


def _done(folder: Path) -> set[str]:
    time.sleep(0.2)
    path = folder / "log"
    return {line.split()[1] for line in path.read_text().splitlines() if line.startswith("good ")} if path.exists() else set()


def _letters(folder: Path, chappe: list[str], environment: dict[str, str], *, bodies: bool = False) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while True:
        after = str(found[-1]["number"] if found else 0)
        command = [*chappe, "dead", "list", "--json", "-n", "1000", "--after", after]
        page = json.loads(subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=True).stdout)
        if not page:
            break
        found += page
    for letter in found if bodies else ():
        command = [*chappe, "dead", "show", str(letter["number"])]
        (shown,) = json.loads(subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=True).stdout)
        letter["body"] = shown["body"]
    return found


def plan_of(good: int, poison: int, seed: int, slow: float) -> list[tuple[int, float | str]]:
    """Return the good messages with their seconds and the poison with its kind, in a random order."""
    chance = random.Random(seed)
    whats: list[float | str] = [5.0 if n % 100 == 0 else slow for n in range(good)]
    whats += [KINDS[n % len(KINDS)] for n in range(poison)]
    chance.shuffle(whats)
    return list(enumerate(whats))


def compare(folder: Path, good: int, poison: int, processes: int, concurrency: int, seed: int, slow: float) -> dict[str, Any]:
    """Run the same good messages with and without poison."""
    plan = plan_of(good, poison, seed, slow)
    clean = run(folder / "clean", [(n, what) for n, what in plan if isinstance(what, float)], processes, concurrency, 1800)
    mixed = run(folder / "mixed", plan, processes, concurrency, 1800)
    return {
        "good": good, "poison": poison, "slow": slow, "clean_seconds": clean["seconds"], "throughput": round(clean["seconds"] / mixed["seconds"], 3), **mixed,
    }  # fmt: skip


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--good", type=int, default=20_000)
    parser.add_argument("--poison", type=int, default=200)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--slow", type=float, default=0.1, help="Seconds that a good message takes; one in a hundred takes five.")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="chappe-poison-") as folder:
        result = compare(Path(folder), options.good, options.poison, options.processes, options.concurrency, options.seed, options.slow)
    print(json.dumps(result))
    bad = ("good_unfinished", "good_dead", "good_attempts_spent", "poison_not_dead", "poison_dead_twice", "left")
    if any(result[name] for name in bad):
        sys.exit(1)


if __name__ == "__main__":
    main()
