"""The shop, open for one test."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from .shop import Open, opened


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Open]:
    """The shop with the settings of a developer's machine."""
    async with opened(tmp_path) as shop:
        yield shop
