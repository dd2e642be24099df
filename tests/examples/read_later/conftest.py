"""The real exports and pages of the shared data, a library in a new file, and the server that plays the web."""

import asyncio
import os
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import uvicorn

from read_later.fetching import Fetcher
from read_later.library import Library, open_engine
from read_later.local_web import LocalWeb, rehearsed
from read_later.tables import Table

SHARED = Path(os.environ.get("CHAPPE_SHARED") or Path(__file__).resolve().parents[4] / "shared")


@pytest.fixture(scope="session")
def real_exports() -> Path:
    folder = SHARED / "data/imports/wallabag"
    if not folder.is_dir():
        pytest.skip("the real exports are in shared/data, which is absent")
    return folder


@pytest.fixture
def library(tmp_path: Path) -> Iterator[Library]:
    engine = open_engine(f"sqlite:///{tmp_path / 'read_later.db'}")
    yield Library(engine)
    engine.dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
def either_library(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Library]:
    """A library in each of the two databases."""
    if request.param == "sqlite":
        engine = open_engine(f"sqlite:///{tmp_path / 'read_later.db'}")
    else:
        engine = open_engine(request.getfixturevalue("postgres").url.replace("postgresql://", "postgresql+psycopg://"))
        Table.metadata.drop_all(engine)
        Table.metadata.create_all(engine)
    yield Library(engine)
    engine.dispose()


@pytest.fixture(scope="session")
def web() -> Iterator[str]:
    """The local web in a thread of its own."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(128)  # who connects before it serves waits
    server = uvicorn.Server(uvicorn.Config(LocalWeb(slow=0.01).app, log_level="critical", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])))
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join()


@pytest.fixture
async def fetcher(web: str) -> AsyncIterator[Fetcher]:
    made = Fetcher(seconds=30.0, ask=rehearsed, web=web)
    yield made
    await made.close()
