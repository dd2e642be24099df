"""`make bench-import`: many links of many users through read later, with the governor on, while workers are killed.

Without `--extract` pages are fetched over HTTP and stored, and what would read them waits. The exit code is 0 only if every article is
there exactly once.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path

import psutil

from read_later.demo import Reader
from read_later.stage import Stage

_POOLS = """app = "read_later.app:app"
[pools.import]
queues = ["import.*"]
processes = {workers}
concurrency = {slots}
nice = 19
[pools.extract]
queues = ["extract", "tidy"]
processes = 2
concurrency = 1
"""
_PATIENCE = 7200.0
_PARTS = (2, 25, 50, 75, 98)  # percent: before is the start, behind are those that the web has wait
_QUIET = 20.0  # seconds in which the page is read before anything is imported
_PAUSE = 0.05  # between two of its readings
_MIB = 1024 * 1024


def options() -> argparse.Namespace:
    """Return what is asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.imports", description=__doc__)
    parser.add_argument("--links", type=int, default=160_000)
    parser.add_argument("--users", type=int, default=20, help="each uploads one Pocket export with an equal part of the links")
    parser.add_argument("--workers", type=int, default=2, help="processes that fetch")
    parser.add_argument("--slots", type=int, default=35, help="pages that each fetches at once")
    parser.add_argument("--extract", action="store_true", help="read the pages, too")
    parser.add_argument("--kill", type=float, default=5.0, metavar="SECONDS", help="kill a random worker so often; 0: never")
    parser.add_argument("--slow", type=float, default=1.3, help="how many times slower the page may be")
    parser.add_argument("--ungoverned", action="store_true", help="take no regard of what else the host does")
    return parser.parse_args()


class Meters:
    """What the processes use: seconds of CPU and the largest memory, by what they are, those included that have ended."""

    def __init__(self) -> None:
        self._seconds = dict[tuple[str, psutil.Process], float]()
        self.memory = defaultdict[str, list[tuple[float, int]]](list)

    def look(self, stage: Stage, share: float) -> None:
        """Measure all, when a share of the articles has been worked on."""
        known = {process.pid: name for name, process in stage.processes.items()}
        held = Counter[str]()
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):
                title = process.cmdline()
                name = " ".join(title[0].split()[:2]) if title and title[0].startswith("chappe ") else known.get(process.pid, "other")
                name = title[0] if name == "chappe worker" else name
                used = process.cpu_times()
                self._seconds[name, process] = used.user + used.system
                held[name] = max(held[name], process.memory_info().rss)
        for name, size in held.items():
            self.memory[name].append((share, size))

    def seconds(self) -> Counter[str]:
        """Return the seconds of CPU of each kind of process."""
        found = Counter[str]()
        for (name, _), seconds in self._seconds.items():
            found[name] += seconds  # type: ignore[assignment]
        return found

    def largest(self, name: str, least: float, most: float) -> float:
        """Return the most MiB that one process held within a part of the run."""
        return max((size for share, size in self.memory[name] if least <= share <= most), default=0) / _MIB


def write_export(file: Path, user: int, links: int) -> Path:
    """Write what Pocket would export for a user."""
    with file.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.writer(opened)
        writer.writerow(["title", "url", "time_added", "tags", "status"])
        for n in range(links):
            writer.writerow([f"Article {n}", f"https://paper{n % 17}.example.net/{user}/{n}/", 1_600_000_000 + n, "", "unread"])
    return file


def upload(stage: Stage, links: int, users: int) -> None:
    """Have all users upload, four at a time."""

    def one(user: int) -> None:
        export = write_export(stage.folder / f"part_{user:06}.csv", user, links // users + (user < links % users))
        answer = stage.upload(export, f"user{user}")
        if answer.status_code != 202:
            raise RuntimeError(f"user {user} was answered {answer.status_code}: {answer.text}")

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(one, range(users)))


def kill_one(stage: Stage) -> None:
    """Kill a random worker."""
    rows = [line.split("\t") for line in (stage.folder / "chappe.db.processes").read_text().splitlines()]
    workers = [int(pid) for name, pid, *_ in rows if pid and name.partition("-")[0] in ("import", "extract")]
    with suppress(ProcessLookupError, psutil.NoSuchProcess):
        psutil.Process(random.choice(workers)).send_signal(signal.SIGKILL) if workers else None


def follow(stage: Stage, chosen: argparse.Namespace, meters: Meters, started: float) -> tuple[dict[int, float], float, int]:
    """Wait until all have been worked on; return when each part of them was, when all were queued, and how many workers were killed."""
    reached, queued, killed, next_kill = dict[int, float](), 0.0, 0, time.monotonic() + chosen.kill
    states = dict[str, int]()
    with closing(sqlite3.connect(stage.folder / "read_later.db", timeout=30.0)) as database:
        while (passed := time.monotonic() - started) < _PATIENCE:
            states = dict(database.execute("select state, count(*) from article group by state").fetchall())
            ended = sum(states.get(state, 0) for state in ("done", "failed", *(() if chosen.extract else ("fetched",))))
            if not queued and not database.execute("select count(*) from chappe_outbox").fetchone()[0]:
                queued = passed
            for part in (*_PARTS, 100):
                if part not in reached and ended >= chosen.links * part / 100:
                    reached[part] = passed
            meters.look(stage, ended / chosen.links)
            if 100 in reached:
                return reached, queued, killed
            if chosen.kill and time.monotonic() >= next_kill:
                kill_one(stage)
                killed, next_kill = killed + 1, next_kill + chosen.kill
            time.sleep(0.5)
    raise TimeoutError(f"waited {_PATIENCE:g} s in vain for all articles; {states}")


def died(stage: Stage) -> tuple[int, int]:
    """Return how many commands that fetch were running in three killed workers, and how many commands died for another reason.

    The articles of both end by that.
    """
    with closing(sqlite3.connect(f"file:{stage.folder / 'chappe.db'}?mode=ro", uri=True, timeout=30.0)) as database:
        letters = database.execute("select name, reason from dead join queue on queue.id = dead.queue").fetchall()
    return letters.count(("import.pocket", "worker_lost")), sum(reason != "worker_lost" for _, reason in letters)


def check(stage: Stage, chosen: argparse.Namespace, killed: int) -> list[str]:
    """Return what is wrong when all is over; the last messages may still be on their way out."""

    def is_over() -> bool:
        return stage.queues()["import.pocket"]["done"] + died(stage)[0] == chosen.links

    with suppress(TimeoutError):
        stage.wait_for(is_over, "the last commands to end", 120.0)
    lost, others = died(stage)
    if lost:
        print(f"lost       {lost} of {chosen.links} commands were running in each of three of the {killed} killed workers")
    with closing(sqlite3.connect(stage.folder / "read_later.db", timeout=30.0)) as database:
        counts = database.execute("select count(*), count(distinct user || ' ' || url), count(distinct user) from article").fetchone()
        pages = database.execute("select count(*) from page").fetchone()[0]
        fetched = database.execute("select count(*) from article where state = 'fetched'").fetchone()[0]
        unsent = database.execute("select count(*) from chappe_outbox").fetchone()[0]
    found = {
        "articles": (counts, (chosen.links, chosen.links, chosen.users)),
        "pages that wait to be read": (pages, fetched),
        "commands in the outbox": (unsent, 0),
        "fetch commands that ended": (stage.queues()["import.pocket"]["done"] + lost, chosen.links),
        "commands that died for another reason": (others, 0),
    }
    return [f"{what}: {is_so}, not {must}" for what, (is_so, must) in found.items() if is_so != must]


def run(chosen: argparse.Namespace, stage: Stage) -> bool:
    """Import, and print the figures of each stage; say whether all is as it must be."""
    _, table, governor = stage.config.read_text().partition("[governor]")
    governor = f"{governor.rstrip()}\nslow = {chosen.slow}\n" if governor else ""
    stage.config.write_text(_POOLS.format(workers=chosen.workers, slots=chosen.slots) + table + governor)
    stage.start_web()
    stage.start_pages()
    stage.start_chappe()
    if not chosen.extract:
        subprocess.run([sys.executable, "-m", "chappe", "pause", "extract"], check=True, env=stage.environment(), stdout=subprocess.DEVNULL)
    with Reader(stage, _PAUSE) as quiet_reader:
        time.sleep(_QUIET)
    meters = Meters()
    meters.look(stage, 0.0)
    before, started = meters.seconds(), time.monotonic()
    with Reader(stage, _PAUSE) as reader, ThreadPoolExecutor(1) as uploading:
        uploads = uploading.submit(lambda: (upload(stage, chosen.links, chosen.users), time.monotonic() - started)[1])
        reached, queued, killed = follow(stage, chosen, meters, started)
        answered = uploads.result()
    used = meters.seconds() - before
    verb = "extracted" if chosen.extract else "fetched"
    rates = [chosen.links * (b - a) / 100 / max(0.001, reached[b] - reached[a]) for a, b in itertools.pairwise(_PARTS)]
    print(f"uploaded   {chosen.links} links of {chosen.users} users in {answered:.1f} s; all queued after {max(queued, answered):.1f} s")
    print(f"{verb:10} all after {reached[100]:.0f} s, 98 % after {reached[98]:.0f} s; {killed} workers were killed meanwhile")
    print(f"a second   {', '.join(f'{rate:.0f}' for rate in rates)} in each quarter; the last is {rates[-1] / rates[0]:.0%} of the first")
    print(f"CPU        {used.total() / chosen.links * 1000:.1f} ms a link:", end=" ")
    print(", ".join(f"{name.removeprefix('chappe ')} {seconds / chosen.links * 1000:.2f}" for name, seconds in used.most_common()))
    quiet, during = quiet_reader.milliseconds(95), reader.milliseconds(95)
    print(f"page       95 % within {quiet:.1f} ms before, {during:.1f} ms meanwhile: {during / quiet:.2f} ×; {reader.failed} failed")
    memory = ((name, meters.largest(name, 0.25, 0.5), meters.largest(name, 0.75, 1.0)) for name in used)
    print("memory     MiB of the largest, second and last quarter:", end=" ")
    print(", ".join(f"{name.removeprefix('chappe ')} {early:.0f} {late:.0f}" for name, early, late in memory if late))
    wrong = check(stage, chosen, killed)
    print("checked    " + ("; ".join(wrong) or "every article is there exactly once, and each was ended by one command"))
    return not wrong


def main() -> None:
    """Measure in a folder of its own."""
    chosen = options()
    with (
        tempfile.TemporaryDirectory(prefix="chappe-bench-import-") as folder,
        Stage(Path(folder) / "stage", governed=not chosen.ungoverned) as stage,
    ):
        right = run(chosen, stage)
    sys.exit(0 if right else 1)


if __name__ == "__main__":
    main()
