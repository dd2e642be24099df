"""What the supervisor believes of the process that forks the others."""

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest

from chappe.supervisor.launcher import Ended, ForkLauncher, Started, encode


@pytest.fixture
async def launcher() -> AsyncIterator[tuple[ForkLauncher, socket.socket]]:
    """A launcher, and the end of its control socket that the process would hold."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    launcher = ForkLauncher(ours)
    yield launcher, theirs
    await launcher.close()
    theirs.close()


async def test_the_end_of_a_process_that_the_application_started_is_no_end_of_the_one_that_gets_its_id_later(
    launcher: tuple[ForkLauncher, socket.socket],
) -> None:
    forking, process = launcher
    process.send(encode(Ended(4_000_001, 3)))
    starting = asyncio.create_task(forking.start(("worker",), {}, {}))
    await asyncio.sleep(0)
    process.send(encode(Started(1, 4_000_001)))
    ending = asyncio.create_task((await starting).wait())
    process.send(encode(Ended(4_000_001, 5)))
    assert await ending == 5


async def test_an_end_that_is_told_at_once_after_the_start_is_heard(launcher: tuple[ForkLauncher, socket.socket]) -> None:
    forking, process = launcher
    starting = asyncio.create_task(forking.start(("worker",), {}, {}))
    process.send(encode(Started(1, 4_000_001)))
    process.send(encode(Ended(4_000_001, 5)))
    assert await (await starting).wait() == 5
