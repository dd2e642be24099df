"""The life of a worker process: it connects, works until it is told to end or is due for renewal, and ends in order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from chappe import beats
from chappe.beats import Beat
from chappe.bus.bus import Bus
from chappe.bus.context import Ports
from chappe.bus.merging import Merger
from chappe.bus.registry import Registry
from chappe.connection import Connection
from chappe.engines.file.running_tables import folder_of
from chappe.errors import BrokerUnavailable
from chappe.lifetime import BEAT, RENEWED, Lifeline, memory_of, settle_down
from chappe.settings import Settings
from chappe.words import counted
from chappe.worker.apart import Apart, Starter
from chappe.worker.deaths import telling_deaths
from chappe.worker.heartbeat import Heartbeat
from chappe.worker.running_table import RunningTable
from chappe.worker.stacks import tell_stacks
from chappe.worker.worker import Worker

log = logging.getLogger("chappe.process")

_RENEW_CHECK = 1.0


class Program(Protocol):
    """What a worker process needs of an application."""

    bus: Bus
    merger: Merger
    registry: Registry

    async def connection(self, info: dict[str, Any] | None = None) -> Connection: ...

    async def ports(self) -> Ports: ...

    async def aclose(self) -> None: ...


class Pool(NamedTuple):
    """What a worker process was asked to be."""

    name: str
    queues: list[str]
    concurrency: int
    limits: dict[str, Any]
    for_suspects: bool = False
    apart: Callable[[], Starter] | None = None  # makes what starts the processes of handlers, where some need them


async def work(app: Program, pool: Pool, settings: Settings, line: Lifeline) -> int:
    """Take messages of the queues of a pool until told to end or due for renewal, and return the exit code."""
    async with contextlib.nullcontext() if pool.apart is None else Apart(app.bus, pool.apart()):
        return await _work(app, pool, settings, line)


async def _work(app: Program, pool: Pool, settings: Settings, line: Lifeline) -> int:
    name, queues, concurrency, limits, for_suspects, _ = pool
    loop = asyncio.get_running_loop()
    table = RunningTable(folder_of(settings.path), concurrency + app.registry.waiting_places)
    app.bus.set_threads(concurrency)
    cold = asyncio.Event()
    stop = asyncio.Event()
    told = {"queues": queues, "concurrency": concurrency, "pool": name, "pid": os.getpid(), "table": table.path.name}
    connecting = loop.create_task(connect(app, told | {"suspects": True} if for_suspects else told))
    said: list[bool] = []  # to be quiet or not, as operators say also before this process can take messages
    _take_signals(loop, stop, cold, connecting)
    _take_pauses(loop, said.append)
    tell_stacks(loop, table.path)
    try:
        connection = await connecting
    except asyncio.CancelledError:
        table.close()
        return 0
    if not queues:
        line.come_up()
        log.info("%s has no queue to serve: all commands of this application are handled where they are sent", name)
        await stop.wait()
        table.close()
        await app.aclose()
        return 0
    lasting, temporary = app.registry.served(queues)
    if for_suspects:
        temporary = ()  # it would be sent what it is never lent
    telling = contextlib.nullcontext() if settings.is_file else telling_deaths(connection.broker, settings.path)
    async with telling, connection.broker.consume(lasting, prefetch=2 * concurrency, temporary=temporary) as consumer:
        working = Worker(
            app.bus,
            consumer,
            merging=app.merger,
            ports=await app.ports(),
            concurrency=concurrency,
            table=table,
            deploy_window=settings.deploy_window,
        )
        working.most = limits["max_messages"]

        _speak_with_supervisor(working, line)

        def beat(now: float) -> None:
            table.beat(now)
            line.beat()

        heartbeat = Heartbeat(beat, table.blame_task)
        heartbeat.start()
        _take_pauses(loop, working.quiet)
        if said[-1:] == [True]:
            working.quiet(True)
        log.info("%s serves %s with %s", name, ", ".join(queues), counted(concurrency, "slot"))
        code = await _until_the_end(working, lambda: line.ready(table.path), stop, cold, grace=settings.grace, limits=limits)
        heartbeat.stop()
        log.info("%s ends after %s", name, counted(working.done + working.failed, "message"))
    table.close()
    await app.aclose()
    return code


def _take_signals(loop: asyncio.AbstractEventLoop, stop: asyncio.Event, cold: asyncio.Event, connecting: asyncio.Task[Any]) -> None:
    """Have TERM and INT stop this process in order, a second INT and QUIT at once."""

    def warm() -> None:
        if stop.is_set():
            cold.set()
        stop.set()
        connecting.cancel()

    loop.add_signal_handler(signal.SIGTERM, lambda: (stop.set(), connecting.cancel()))
    loop.add_signal_handler(signal.SIGINT, warm)
    loop.add_signal_handler(signal.SIGQUIT, lambda: (cold.set(), warm()))


def _take_pauses(loop: asyncio.AbstractEventLoop, say: Callable[[bool], None]) -> None:
    """Have TSTP say that nothing more is to be taken, and CONT that it is."""

    def hear(is_paused: bool) -> None:
        say(is_paused)
        log.info("takes nothing new until it gets SIGCONT" if is_paused else "takes messages again")

    loop.add_signal_handler(signal.SIGTSTP, hear, True)
    loop.add_signal_handler(signal.SIGCONT, hear, False)


def _speak_with_supervisor(working: Worker, line: Lifeline) -> None:
    """Tell once a second how the work goes, and hear how many slots may be used."""
    loop = asyncio.get_running_loop()

    def tell() -> None:
        times = working.clocked.take()
        if not line.beat(beats.encode(Beat(working.busy, times))):
            working.clocked.put_back(times)
        loop.call_later(BEAT, tell)

    def hear(what: str) -> None:
        word, _, count = what.partition(" ")
        if word == "slots" and count.isdigit():
            loop.call_soon_threadsafe(working.allow, int(count))

    line.on_told = hear
    loop.call_later(BEAT, tell)


async def _until_the_end(
    work: Worker, ready: Callable[[], None], stop: asyncio.Event, cold: asyncio.Event, *, grace: float, limits: dict[str, Any]
) -> int:
    """Work until told to stop or due for renewal, end in order, and return the exit code."""
    loop = asyncio.get_running_loop()
    running = loop.create_task(work.run())
    settle_down()
    ready()
    stopping, renewing = loop.create_task(stop.wait()), loop.create_task(_until_renewal(limits))
    await asyncio.wait((running, stopping, renewing), return_when=asyncio.FIRST_COMPLETED)
    if running.done():
        running.result()
    code = 0 if stop.is_set() else RENEWED
    ending = loop.create_task(work.stop(0.0 if cold.is_set() else grace))
    cooling = loop.create_task(cold.wait())
    await asyncio.wait((ending, cooling), return_when=asyncio.FIRST_COMPLETED)
    cut = await (ending if ending.done() else work.stop(0.0))
    if cut:
        log.warning("cut off and gave back %s", counted(cut, "message"))
    for task in (stopping, renewing, cooling, running):
        task.cancel()
    return code


async def connect(app: Program, info: dict[str, Any]) -> Any:
    """Connect for as long as it takes: an engine that is away comes back."""
    while True:
        try:
            return await app.connection(info)
        except BrokerUnavailable as error:
            log.warning("waiting for the engine: %s", error)


async def _until_renewal(limits: dict[str, Any]) -> None:
    if limits["max_age"] is None and limits["max_memory"] is None:
        await asyncio.Event().wait()
    started = time.monotonic()
    while True:
        await asyncio.sleep(_RENEW_CHECK)
        if limits["max_age"] is not None and time.monotonic() - started > limits["max_age"]:
            return
        if limits["max_memory"] is not None and memory_of(os.getpid()) > limits["max_memory"] * 1024 * 1024:
            return
