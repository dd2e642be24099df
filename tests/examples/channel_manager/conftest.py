"""A property database in a file, and the sales channels as the process that they really are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx2
import psutil
import pytest

from channel_manager.bookings import FIRST_NIGHT, find_schema
from channel_manager.property import Listing, PropertyDatabase
from processes import Processes


@pytest.fixture(scope="session")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    with Processes(tmp_path_factory.mktemp("channels")) as started:
        yield started


def start_channels(processes: Processes, name: str, schema: str) -> str:
    """Start the channels on a free port; they listen when this returns."""
    return processes.start_server(name, "-m", "channel_manager.channel_server", "--port", "0", "--xsd", schema)


@pytest.fixture(scope="session")
def server(processes: Processes) -> tuple[psutil.Process, str]:
    url = start_channels(processes, "server", "auto")
    return psutil.Process(processes.processes["server"].pid), url


@pytest.fixture
def http(server: tuple[psutil.Process, str]) -> Iterator[httpx2.Client]:
    """A client of channels that know nothing yet and answer well."""
    with httpx2.Client(base_url=server[1], timeout=60.0, trust_env=False) as client:
        assert client.post("/reset").is_success
        yield client


@pytest.fixture
def schema() -> Path:
    found = find_schema()
    if found is None:
        pytest.skip("the AlpineBits schema is in shared/data, which is absent")
    return found


@pytest.fixture
def database(tmp_path: Path) -> Iterator[PropertyDatabase]:
    """One house of two units, on all three channels for ten nights."""
    with PropertyDatabase(tmp_path / "property.db") as database:
        database.create(1, "House 1", units=2, cents=9_000, first_night=FIRST_NIGHT)
        for channel in ("alpine", "nimbus", "ical"):
            database.offer(Listing(channel, f"{channel}-1", 1, 10, rates=channel == "nimbus"))
        yield database
