"""How fast the embedded engine is on this machine: real processes, a durable 200-byte command, the defaults a user gets.

`make bench` prints a table and writes benchmarks/results.json as rows {work, system, unit, median, runs}.
Read ratios, not third digits: see docs/decisions/ for what was measured when.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

APPLICATION = """
import os, time
from noria import App, Command, Event, replace

app = App("bench")
latencies = []

class Noop(Command, queue="noop"):
    id: int
    name: str
    user: str
    tags: list[str]
    note: str
    ok: bool
    ratio: float

class Stamp(Command, queue="stamp"):
    at: float

class Mask(Command, queue="mask", key="{id}"):
    id: int
    what: frozenset[str]
    def merge(self, newer):
        return replace(self, what=self.what | newer.what)

BODY = dict(id=1234567, name="report.refresh", user="alice@example.com", tags=["a", "b", "c"], note="x" * 66, ok=True, ratio=0.25)

@app.handles(Noop)
async def noop(message: Noop) -> None: ...

@app.handles(Stamp)
async def stamp(message: Stamp) -> None:
    with open("latency.log", "a") as log:
        log.write(f"{time.time() - message.at}\\n")

@app.handles(Mask)
async def mask(message: Mask) -> None: ...
"""


class Bench:
    """One folder with an engine; everything else is started by the measurements."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "work.py").write_text(APPLICATION)
        self.environment = {
            **os.environ,
            "NORIA_APP": "work:app",
            "NORIA_BROKER": f"sqlite:///{folder}/noria.db",
            "NORIA_LOG_LEVEL": "error",
        }
        os.chdir(folder)
        os.environ.update(self.environment)
        sys.path.insert(0, str(folder))
        self.engine = self.start("engine")

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a noria process."""
        return subprocess.Popen([sys.executable, "-m", "noria", *arguments], env=self.environment, cwd=self.folder)

    @contextlib.contextmanager
    def workers(self, count: int, queues: str, *options: str) -> Iterator[list[psutil.Process]]:
        """Run worker processes that are stopped (SIGTSTP) until they are told to go on."""
        running = [self.start("worker", "-Q", queues, *options) for _ in range(count)]
        try:
            yield [psutil.Process(process.pid) for process in running]
        finally:
            for process in running:
                process.terminate()
            for process in running:
                process.wait()

    def close(self) -> None:
        """End the engine."""
        self.engine.terminate()
        self.engine.wait()


async def wait_until(look: object, seconds: float = 60.0) -> None:
    """Wait for a condition that a coroutine function gives."""
    deadline = time.monotonic() + seconds
    while not await look():  # type: ignore[operator]
        if time.monotonic() > deadline:
            raise TimeoutError("the measurement did not end")
        await asyncio.sleep(0.002)


async def queue_of(connection: object, name: str) -> dict[str, int]:
    """Give one queue's line of the overview."""
    overview = await connection.store.overview()  # type: ignore[attr-defined]
    return next(queue for queue in overview["queues"] if queue["name"] == name)


async def drain(bench: Bench, app: object, messages: list[object], count: int, processes: int) -> tuple[float, float]:
    """Fill a backlog, let workers drain it, and give messages a second and worker CPU in µs for each."""
    connection = await app.connection()  # type: ignore[attr-defined]
    with bench.workers(processes, "noop") as workers:

        async def serving() -> bool:
            return (await queue_of(connection, "noop"))["consumers"] == processes

        await wait_until(serving)
        for worker in workers:
            worker.send_signal(signal.SIGTSTP)
        await asyncio.sleep(0.1)
        for _ in range(count // 500):
            await app.asend(messages)  # type: ignore[attr-defined]
        cpu = sum(sum(worker.cpu_times()[:2]) for worker in workers)
        for worker in workers:
            worker.send_signal(signal.SIGCONT)
        samples: list[tuple[float, int]] = []

        async def empty() -> bool:
            depth = await connection.broker.depth("noop")
            samples.append((time.perf_counter(), depth.ready + depth.running))
            return depth.ready + depth.running <= 0.02 * count

        await wait_until(empty)
        cpu = sum(sum(worker.cpu_times()[:2]) for worker in workers) - cpu
        inside = [(t, left) for t, left in samples if 0.05 * count <= left <= 0.85 * count]
        (t0, left0), (t1, left1) = inside[0], inside[-1]
    await connection.broker.purge("noop")
    return (left0 - left1) / (t1 - t0), 1e6 * cpu / (0.98 * count)


async def latency(bench: Bench, app: object, stamp: type, count: int) -> tuple[float, float]:
    """Send one message every 10 ms to an idle worker; give p50 and p99 in ms from the call to the handler's start."""
    log = bench.folder / "latency.log"
    log.unlink(missing_ok=True)
    connection = await app.connection()  # type: ignore[attr-defined]
    with bench.workers(1, "stamp"):

        async def serving() -> bool:
            return (await queue_of(connection, "stamp"))["consumers"] == 1

        await wait_until(serving)
        for _ in range(count):
            await app.asend(stamp(at=time.time()))  # type: ignore[attr-defined]
            await asyncio.sleep(0.01)

        async def all_there() -> bool:
            return log.exists() and len(log.read_text().splitlines()) >= count

        await wait_until(all_there)
    found = sorted(float(line) * 1000 for line in log.read_text().splitlines())
    return found[len(found) // 2], found[int(len(found) * 0.99)]


async def send_rates(app: object, work: object) -> dict[str, float]:
    """Give sends a second: one by one, eight at once, by the hundred, and masks to pending keys."""
    noop = work.Noop(**work.BODY)  # type: ignore[attr-defined]
    connection = await app.connection()  # type: ignore[attr-defined]
    rates: dict[str, float] = {}
    started = time.perf_counter()
    for _ in range(3000):
        await app.asend(noop)  # type: ignore[attr-defined]
    rates["send one by one"] = 3000 / (time.perf_counter() - started)

    async def eighth() -> None:
        for _ in range(1000):
            await app.asend(noop)  # type: ignore[attr-defined]

    started = time.perf_counter()
    await asyncio.gather(*(eighth() for _ in range(8)))
    rates["send, eight at once"] = 8000 / (time.perf_counter() - started)
    hundred = [noop] * 100
    started = time.perf_counter()
    for _ in range(300):
        await app.asend(hundred)  # type: ignore[attr-defined]
    rates["send by 100"] = 30000 / (time.perf_counter() - started)
    await connection.broker.purge("noop")
    masks = [work.Mask(id=n % 100, what={str(n % 7)}) for n in range(2000)]  # type: ignore[attr-defined]
    started = time.perf_counter()
    for one in masks:
        await app.asend(one)  # type: ignore[attr-defined]
    rates["merged masks one by one"] = 2000 / (time.perf_counter() - started)
    started = time.perf_counter()
    for _ in range(20):
        await app.asend(masks)  # type: ignore[attr-defined]
    rates["merged masks by 2000"] = 40000 / (time.perf_counter() - started)
    await connection.broker.purge("mask")
    return rates


def main() -> None:
    """Measure, print, write."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--runs", type=int, default=3)
    options.add_argument("--count", type=int, default=100_000)
    options.add_argument("--output", type=Path, default=Path(__file__).with_name("results.json"))
    chosen = options.parse_args()
    output = chosen.output.resolve()
    found: dict[tuple[str, str], list[float]] = {}

    def note(work: str, unit: str, value: float) -> None:
        found.setdefault((work, unit), []).append(value)

    with tempfile.TemporaryDirectory(prefix="noria-bench-") as name:
        bench = Bench(Path(name))
        try:

            async def run() -> None:
                import work  # type: ignore[import-not-found]

                app = work.app
                message = work.Noop(**work.BODY)
                for _ in range(chosen.runs):
                    for processes in (1, 2):
                        rate, cpu = await drain(bench, app, [message] * 500, chosen.count, processes)
                        note(f"drain {chosen.count:,}, {processes} worker process{'es' if processes > 1 else ''}", "msg/s", rate)
                        if processes == 1:
                            note("worker CPU for each command", "µs", cpu)
                    for work_name, rate in (await send_rates(app, work)).items():
                        note(work_name, "msg/s", rate)
                    p50, p99 = await latency(bench, app, work.Stamp, 300)
                    note("idle: send to handler start, p50", "ms", p50)
                    note("idle: send to handler start, p99", "ms", p99)
                await app.aclose()

            asyncio.run(run())
        finally:
            bench.close()
    rows = [
        {
            "work": work,
            "system": "noria",
            "unit": unit,
            "median": round(statistics.median(values), 2),
            "runs": [round(v, 2) for v in values],
        }
        for (work, unit), values in found.items()
    ]
    output.write_text(json.dumps(rows, indent=1) + "\n")
    table = Table(
        title=f"noria, embedded engine, synchronous=FULL · {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    )
    for column in ("work", "median", "unit", "runs"):
        table.add_column(column, justify="left" if column == "work" else "right")
    for row in rows:
        table.add_row(row["work"], f"{row['median']:,}", row["unit"], " ".join(f"{v:,.0f}" if v > 100 else f"{v:g}" for v in row["runs"]))
    Console().print(table)


if __name__ == "__main__":
    main()
