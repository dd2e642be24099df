"""A database for the tests of a file, and a broker over it with one empty queue."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from chappe.engines.postgres.broker import PostgresBroker
from chappe.messages.topology import Topology, bind

from ...servers import shared


@pytest.fixture(scope="module")
def url(shared_servers: tuple[Path, int]) -> str:
    return shared.database(*shared_servers).url


@pytest.fixture
async def broker(url: str) -> AsyncIterator[PostgresBroker]:
    made = PostgresBroker(url, deadline=60.0)
    await made.declare(Topology(queues=(bind("q"),)))
    await made.purge("q")
    yield made
    await made.close()
