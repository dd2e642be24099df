"""The life of a worker process."""

from __future__ import annotations

import asyncio

import pytest

from chappe.worker import process


async def test_a_worker_is_due_for_renewal_when_it_holds_more_memory_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_RENEW_CHECK", 0.0)
    held = 100 * 2**20
    monkeypatch.setattr(process, "memory_of", lambda _: held)
    renewal = asyncio.create_task(process._until_renewal({"max_age": None, "max_memory": 100}))
    for _ in range(10):
        await asyncio.sleep(0)
    assert not renewal.done(), "it may hold as much"
    held += 1
    await asyncio.wait_for(renewal, 30.0)
