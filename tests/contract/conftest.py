"""The engines that the suite runs on: a new one is one more line here."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final

import pytest

from .embedded import InsideEngine, SocketEngine
from .engine import EngineUnderTest, Peer

ENGINES: Final[dict[str, Callable[[Path], EngineUnderTest]]] = {"embedded": InsideEngine, "embedded-socket": SocketEngine}


@pytest.fixture(params=list(ENGINES))
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[EngineUnderTest]:
    """A running engine on fresh data."""
    made = ENGINES[request.param](tmp_path)
    await made.start()
    yield made
    await made.close()


@pytest.fixture
async def peer(engine: EngineUnderTest) -> Peer:
    """A connected peer."""
    return await engine.connect()
