"""Idleness: what ten workers and the engine cost while nothing happens."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator

import psutil

from benchmarks.meters import cpu, pss, tree
from benchmarks.scale import Scale
from benchmarks.stage import Session, until
from benchmarks.works import IDLE_CPU, IDLE_PSS, RUN_CPU, RUN_PSS, Figure


def _is_counted(process: psutil.Process) -> bool:
    """Tell whether this is a worker or the engine, by the title that it gave itself."""
    return " ".join(process.cmdline()).startswith(("chappe worker", "chappe engine"))


async def measure(session: Session, scale: Scale) -> AsyncGenerator[Figure]:
    """Run it as a user does, `chappe run` with a pool of ten, and look at it twice."""
    async with session.stage(engine=False) as stage:
        (stage.path / "chappe.toml").write_text(f"[pools.default]\nprocesses = {scale.idlers}\n")
        supervisor = await stage.chappe("run", "--no-gateway", "--no-scheduler")
        await until(lambda: "processes are ready" in supervisor.log.read_text(), "chappe run to be ready")
        everything = tree(supervisor.pid)
        counted = [process.pid for process in everything if _is_counted(process)]
        if len(counted) != scale.idlers + 1:
            raise RuntimeError(f"{len(counted)} processes call themselves workers or the engine, not {scale.idlers + 1}")
        all_of_them = [process.pid for process in everything]
        await asyncio.sleep(scale.settling)  # what was started must come to rest: this is the measurement, no condition ends it
        before, some, all_cpu = time.perf_counter(), cpu(counted), cpu(all_of_them)
        await asyncio.sleep(scale.idling)
        passed = time.perf_counter() - before
        yield Figure(IDLE_CPU, 100 * (cpu(counted) - some) / passed)
        yield Figure(IDLE_PSS, pss(counted))
        yield Figure(RUN_CPU, 100 * (cpu(all_of_them) - all_cpu) / passed)
        yield Figure(RUN_PSS, pss(all_of_them))
