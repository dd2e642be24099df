"""Measures a peer at the works that Chappe is measured at, where it can do them."""

from __future__ import annotations

import contextlib
import json
import signal
import time
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import psutil

from benchmarks import works
from benchmarks.drain import watched
from benchmarks.meters import percentile, tree
from benchmarks.peers.catalogue import Commands, Peer
from benchmarks.scale import Scale
from benchmarks.sending import rate
from benchmarks.stage import ROOT, Folder, NotMeasured, Program, Session, all_at_once, until
from benchmarks.works import Figure

SCRIPTS = ROOT / ".venv-peers" / "bin"


class Place:
    """A fresh queue of a peer, in a fresh folder."""

    def __init__(self, folder: Folder, peer: Peer) -> None:
        self.tally = folder.tally
        self.environment = folder.environment
        self._folder = folder
        self._peer = peer

    async def _sender(self, how: str, **sizes: int) -> Program:
        module = "benchmarks.peers.sender"
        return await self._folder.start(str(SCRIPTS / "python"), "-m", module, self._peer.application, how, json.dumps(sizes))

    async def send_by(self, senders: int, how: str, **sizes: int) -> list[Any]:
        """Have several processes send at once; each sends one more before, which connects it."""
        return await all_at_once([await self._sender(how, **sizes) for _ in range(senders)])

    async def _ask(self, what: str) -> Any:
        program = await self._sender(what)
        told = await program.line()
        await program.process.wait()
        return told

    async def must_wait(self, count: int) -> None:
        """Look whether everything that was sent arrived; what was not confirmed may need a moment."""
        deadline = time.monotonic() + 10
        while (found := await self._ask("waiting")) != count:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{found} messages wait where {count} were sent")

    async def forget(self) -> None:
        """Delete what waits, which would be a burden to whoever uses the server next."""
        await self._ask("forget")

    @contextlib.asynccontextmanager
    async def workers(self, commands: Commands) -> AsyncGenerator[Sequence[Program]]:
        """Run workers, and end whatever they started too."""
        self.tally.clear()
        programs = [await self._folder.start(str(SCRIPTS / script), *options) for script, *options in commands]
        try:
            yield programs
        finally:
            for program in programs:
                await _end(program)


async def _end(program: Program) -> None:
    """End a worker and what it started.

    Celery's solo worker does not hear SIGTERM while it is idle. One with children is asked to end them itself: of children
    whose parent is gone nobody tells the bench what they cost.
    """
    below = tree(program.pid)[1:] if program.process.returncode is None else []
    await program.end(signal.SIGTERM if below else signal.SIGKILL)
    for child in below:
        with contextlib.suppress(psutil.Error):
            child.kill()


@contextlib.asynccontextmanager
async def place(session: Session, peer: Peer) -> AsyncGenerator[Place]:
    """Return a place to a peer; what goes wrong there is the peer's, and others are measured all the same."""
    if not (SCRIPTS / "python").exists():
        raise NotMeasured(f"{SCRIPTS.parent} is missing: `make bench` installs it")
    try:
        async with session.folder() as folder:
            folder.environment |= {"BENCH_QUEUE": f"bench{time.time_ns()}", "PYTHONPATH": str(ROOT), **peer.environment}
            if peer.over == "rabbitmq":
                folder.environment["BENCH_AMQP"] = session.rabbit().url
            elif peer.over == "postgres":
                folder.environment |= {"PGDSN": session.fresh_database(), "PROCRASTINATE_LOG_LEVEL": "WARNING"}
            yield Place(folder, peer)
    except (RuntimeError, OSError, psutil.Error) as error:
        raise NotMeasured(f"{type(error).__name__}: {error}") from error


async def drain(peer: Peer, session: Session, scale: Scale) -> AsyncGenerator[Figure]:
    """Start workers on a backlog that waits."""
    for processes, commands in enumerate((peer.one, peer.two), start=1):
        async with place(session, peer) as there:
            count = scale.drained_slowly
            await there.send_by(2, "one_by_one", count=count // 2 - 1)
            await there.must_wait(count)
            async with there.workers(commands) as workers:
                found = await watched(there.tally, workers, count, processes)
        yield Figure(works.DRAIN_ONE if processes == 1 else works.DRAIN_TWO, found.rate)
        if processes == 1:
            yield Figure(works.WORKER_CPU, found.cpu)


async def send(peer: Peer, session: Session, scale: Scale) -> AsyncGenerator[Figure]:
    """Send one by one and by eight at once while nobody handles it; none of the peers sends many with one call."""
    sent, figures = 0, list[Figure]()
    async with place(session, peer) as there:
        for work, how, senders, count in (
            (works.SEND, "one_by_one", 1, scale.sent),
            (works.EIGHT_THREADS, "threads", 1, 2 * scale.sent),
            (works.EIGHT_PROCESSES, "one_by_one", scale.senders, 2 * scale.sent),
        ):
            figures.append(Figure(work, rate(count, await there.send_by(senders, how, count=count // senders))))
            sent += count + senders
        await there.must_wait(sent)
        await there.forget()
    for figure in figures:
        yield figure


async def latency(peer: Peer, session: Session, scale: Scale) -> AsyncGenerator[Figure]:
    """Stamp each message before the verb is called, and look at the clock first of all in its handler."""
    async with place(session, peer) as there, there.workers(peer.one):
        await _warm(there)
        await there.send_by(1, "paced", count=scale.stamped)
        await until(lambda: there.tally.count() >= 1 + scale.stamped, "all messages to be handled")
        took = there.tally.values()
    yield Figure(works.SEND_P50, 1e3 * percentile(took, 0.5))
    yield Figure(works.SEND_P99, 1e3 * percentile(took, 0.99))


async def together(peer: Peer, session: Session, scale: Scale) -> AsyncGenerator[Figure]:
    """Send and drain at once, from the first send to the last message done."""
    count = scale.drained_slowly
    async with place(session, peer) as there, there.workers(peer.one):
        await _warm(there)
        (sent,) = await there.send_by(1, "one_by_one", count=count)
        await until(lambda: there.tally.count() >= 2 + count, "all messages to be handled")
        passed = time.time() - sent["started"]
    yield Figure(works.TOGETHER, count / passed)


async def _warm(there: Place) -> None:
    """Wait until a worker handled a first message."""
    await there.send_by(1, "one_by_one", count=0)
    await until(lambda: there.tally.count() == 1, "the worker to be ready")
