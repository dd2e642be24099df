"""What doctor finds at a PostgreSQL that does not keep what it confirms."""

from __future__ import annotations

from pathlib import Path

import pytest

from chappe.engines.rabbitmq.store.database import Database
from chappe.engines.rabbitmq.store.preflight import preflight

from ....servers.postgres import PostgresNode

_missing = PostgresNode.missing()


@pytest.mark.proof
@pytest.mark.skipif(_missing is not None, reason=str(_missing))
async def test_a_server_that_does_not_sync_and_has_no_room_is_found(tmp_path: Path) -> None:
    with PostgresNode(tmp_path, "fsync = off\nmax_connections = 12") as node:
        database = Database(node.url, deadline=60.0)
        found = {f.check: f.verdict for f in await preflight(database)}
        await database.close()
    assert found == {
        "postgresql version": "ok", "postgresql durability": "wrong", "postgresql role": "ok", "postgresql sessions": "ok",
        "postgresql room": "warning", "postgresql clock": "ok",
    }  # fmt: skip
