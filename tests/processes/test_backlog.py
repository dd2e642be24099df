"""R15 in small: a deep backlog costs what a shallow one costs. `make bench` shows it for millions."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

from chappe.engines.contract.broker import Ack
from chappe.engines.file.broker import FileBroker
from chappe.messages.envelope import Envelope, Publication
from chappe.messages.topology import Topology, bind
from tests.waiting import auntil

pytestmark = pytest.mark.proof

SHALLOW, DEEP, TAKEN, BATCH = 2_000, 200_000, 2_000, 100
BODY = b'{"note": "' + b"x" * 180 + b'"}'


async def fill(broker: FileBroker, queue: str, count: int) -> None:
    for first in range(0, count, 1000):
        await broker.publish([Publication(Envelope(f"{queue}-{first + n}", "noop", BODY), queue) for n in range(min(1000, count - first))])


async def take(broker: FileBroker, queue: str) -> float:
    async with broker.consume([queue], prefetch=BATCH) as consumer:
        started = time.perf_counter()
        for _ in range(TAKEN // BATCH):
            deliveries = await consumer.receive(BATCH, 5.0)
            assert len(deliveries) == BATCH
            await consumer.settle([Ack(d.tag) for d in deliveries])
        return TAKEN / (time.perf_counter() - started)


async def test_taking_from_two_hundred_thousand_is_as_fast_as_from_two_thousand(tmp_path: Path) -> None:
    engine = subprocess.Popen(
        [sys.executable, "-m", "chappe", "--broker", "sqlite:///chappe.db", "engine"], cwd=tmp_path, stderr=subprocess.DEVNULL
    )
    broker = FileBroker(tmp_path / "chappe.db", may_own_file=False, deadline=20.0)
    try:
        await auntil(lambda: (tmp_path / "chappe.db.sock").exists(), "the engine")
        await broker.declare(Topology(queues=(bind("shallow"), bind("deep"))))
        await fill(broker, "deep", DEEP)
        ratios: list[float] = []
        for _ in range(7):
            await fill(broker, "shallow", SHALLOW)
            ratios.append(await take(broker, "deep") / await take(broker, "shallow"))
        assert statistics.median(ratios) >= 0.75, ratios
    finally:
        await broker.close()
        engine.terminate()
        engine.wait(30)
