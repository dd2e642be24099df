"""M1: masks that merge while pending, on real workers: nothing is lost, nothing overlaps, every handle resolves."""

from __future__ import annotations

import asyncio
import collections
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.waiting import auntil

APPLICATION = """
import asyncio, json, os, time
from chappe import App, Command, replace

app = App("masks")

class Sync(Command, queue="compute", key="{lodging}"):
    lodging: int
    fields: frozenset[int]

    def merge(self, newer):
        return replace(self, fields=self.fields | newer.fields)

@app.handles(Sync)
async def sync(mask: Sync):
    started = time.monotonic()
    await asyncio.sleep(0.002)
    line = json.dumps([mask.lodging, sorted(mask.fields), started, time.monotonic()]) + "\\n"
    with open("runs.log", "a") as log:
        log.write(line)
    return sorted(mask.fields)
"""

KEYS, MASKS, MORE = 20, 1_000, 100


@pytest.fixture
def masks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "masks.py").write_text(APPLICATION)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("masks", None)
    return importlib.import_module("masks")


def start(*arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "chappe", *arguments], env={**os.environ, "CHAPPE_APP": "masks:app"}, stderr=subprocess.DEVNULL
    )


async def test_masks_on_the_same_keys_leave_one_pending_for_each_key_and_lose_no_field(masks: Any) -> None:
    app, Sync = masks.app, masks.Sync
    engine = start("engine")
    workers: list[subprocess.Popen[bytes]] = []
    try:
        connection = await app.connection()
        sent: list[Any] = [Sync(lodging=n % KEYS, fields={n}) for n in range(MASKS)]
        for first in range(0, MASKS, 50):
            await app.asend(sent[first : first + 50])
        assert (await connection.broker.depth("compute")).ready == KEYS

        asked = [asyncio.create_task(app.aask(Sync(lodging=n, fields={MASKS + n}), timeout=200.0)) for n in range(KEYS)]
        await auntil(lambda: all_tracked(connection, KEYS), "every ask to be stored")
        assert (await connection.broker.depth("compute")).ready == KEYS

        workers = [start("worker", "-c", "10") for _ in range(2)]
        for n in range(MORE):
            await app.asend(Sync(lodging=n % KEYS, fields={2 * MASKS + n}))
            depth = await connection.broker.depth("compute")
            assert depth.ready + depth.delayed <= KEYS, "at most one pending for each key"
        results = await asyncio.gather(*asked)
        await auntil(lambda: is_empty(connection), "everything to be done", 120.0)
    finally:
        for process in [*workers, engine]:
            process.terminate()
            process.wait(60)
        await app.aclose()

    runs = [json.loads(line) for line in Path("runs.log").read_text().splitlines()]
    by_key: dict[int, list[Any]] = collections.defaultdict(list)
    for run in runs:
        by_key[run[0]].append(run)
    for lodging in range(KEYS):
        ran = sorted(by_key[lodging], key=lambda run: run[2])
        assert all(earlier[3] <= later[2] for earlier, later in zip(ran, ran[1:], strict=False)), "two runs of a key overlap"
        fields = [field for run in ran for field in run[1]]
        wanted = {n for n in range(MASKS) if n % KEYS == lodging} | {MASKS + lodging}
        wanted |= {2 * MASKS + n for n in range(MORE) if n % KEYS == lodging}
        assert set(fields) == wanted, "a field was lost"
        assert len(fields) == len(wanted), "a field ran twice: nobody was killed"
        assert MASKS + lodging in results[lodging], "an asker got another run's result"
    assert len(runs) < KEYS + MORE + 1


async def all_tracked(connection: Any, count: int) -> bool:
    rows = (await connection.store.look("compute", "ready", limit=1000)).messages
    return sum(1 for row in rows if any(field >= MASKS for field in json.loads(row.envelope.body)["fields"])) == count


async def is_empty(connection: Any) -> bool:
    depth = await connection.broker.depth("compute")
    return depth.ready == depth.running == depth.delayed == 0
