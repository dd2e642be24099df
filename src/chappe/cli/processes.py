"""The processes of a host: engine, worker, gateway and scheduler; `chappe run` starts them all."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import click
import setproctitle

from chappe import output
from chappe.bus.draft import Draft, new_id
from chappe.bus.loop import run
from chappe.cli.handler_processes import launcher_of
from chappe.cli.inherited import opened
from chappe.cli.loading import chosen_queues, find_app, make_state_dir, settings_of
from chappe.cli.logs import set_up
from chappe.cli.seconds import SECONDS
from chappe.clocks import steady_clock
from chappe.engines.file import preflight
from chappe.engines.file.connection import Connection
from chappe.engines.file.database import PASSING
from chappe.engines.file.owner import Ownership, is_served
from chappe.engines.file.server import Engine
from chappe.engines.file.serving import serve
from chappe.errors import AlreadyOwned, ChappeError, InvalidSettings
from chappe.lifetime import Lifeline
from chappe.niceness import be_nice
from chappe.settings import CONCURRENCY, TOKEN_VARIABLE, Settings, place_of
from chappe.supervisor.launcher import LISTEN_VARIABLE
from chappe.supervisor.listening import bound
from chappe.triggers.scheduler import Scheduler
from chappe.words import counted
from chappe.worker.process import Pool, connect, work

log = logging.getLogger("chappe.process")

_LOCK_PATIENCE = 60.0
_LOOK = 0.05
_BROKEN = 70


def _start(settings: Settings, role: str, grace: float, *, delay: float = 0.0, over: Callable[[], bool] = lambda: True) -> Lifeline:
    os.environ.pop(TOKEN_VARIABLE, None)  # it was read: handlers, and what they start, do not inherit it
    set_up(settings, role)
    setproctitle.setproctitle(f"chappe {role}")
    return Lifeline(grace, delay=delay, over=over)


@click.command()
@click.pass_context
def engine(ctx: click.Context) -> None:
    """Own the file: the engine, first up and last down."""
    settings = settings_of(ctx)
    if not settings.is_file:
        raise InvalidSettings("only a file has an engine; PostgreSQL and RabbitMQ have servers of their own")
    serving: list[Engine] = []
    left: list[set[Connection]] = []  # the workers that were there when the supervisor died

    def unneeded() -> bool:
        """Tell whether the workers, which finish what they run when their supervisor dies, have ended; those of the next one need not."""
        workers = {c for engine in serving for c in list(engine.connections) if c.session.role == "worker"}
        left[:] = left or [workers]
        return left[0].isdisjoint(workers)

    line = _start(settings, "engine", 5.0, delay=settings.grace, over=unneeded)
    gc.set_threshold(50_000, 50, 50)

    async def own() -> None:
        patience, waits, is_up = time.monotonic() + _LOCK_PATIENCE, False, False
        while True:
            try:
                serving[:] = [_opened(settings.path)]
                preflight.guard(settings.path)
                return await serve(settings.path, line.come_up, engine=serving[0])
            except AlreadyOwned as error:
                if time.monotonic() > patience:
                    raise
                if not waits:
                    log.info("waiting for the file: %s", error)
                    waits = True
                if not is_up and is_served(settings.path):  # by the engine of a supervisor that was killed, also to our workers
                    line.come_up()
                    is_up = True
                await asyncio.sleep(_LOOK)

    asyncio.run(_until_told(own()))


async def _until_told(work: Coroutine[Any, Any, None]) -> None:
    """Go on until a signal asks for the end, which is waited for; one that comes meanwhile changes nothing."""
    loop, task = asyncio.get_running_loop(), asyncio.ensure_future(work)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        loop.add_signal_handler(number, lambda: task.cancelling() or task.cancel())
    with contextlib.suppress(asyncio.CancelledError):
        await task


def _opened(path: Path) -> Engine:
    """Open the file, or end this process with 74 if the disk or this moment is at fault: the file may be sound, and it is tried again."""
    try:
        preflight.refuse_folder(path)
        with Ownership(path):
            preflight.refuse(path)
        return Engine(path)
    except (*PASSING, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.EIO:
            raise
        log.critical("%s cannot be opened now (%s); nothing was changed", path, error)
        sys.exit(74)


@click.command()
@click.option("-Q", "--queues", default="*", show_default=True, metavar="A,B*", help="Queues to serve; * is a wildcard.")
@click.option("-X", "--exclude-queues", default="", metavar="A,B*", help="Queues to leave to others.")
@click.option(
    "-c", "--concurrency", default=CONCURRENCY, show_default=True, type=click.IntRange(1, 10_000), help="Messages handled at once."
)
@click.option("--suspects", is_flag=True, help="Run only messages that a worker died with, one at a time.")
@click.option("-n", "--name", "--hostname", default="worker", show_default=True, help="The name shown by chappe status.")
@click.option("-l", "--loglevel", default=None, help="debug, info, warning or error.")
@click.option("--max-messages", type=click.IntRange(1), help="Be renewed after so many messages.")
@click.option("--max-age", type=SECONDS, metavar="SECONDS", help="Be renewed after so many seconds.")
@click.option("--max-memory", type=click.IntRange(1), metavar="MIB", help="Be renewed above so much memory.")
@click.option("--nice", type=click.IntRange(-20, 19), default=0, help="Leave the processor to others, the more the larger it is.")
@click.option("--log", "log_file", metavar="FILE", default=None, help="Append what it writes to stdout and stderr to a file.")
@click.option(
    "--grace", "--shutdown-timeout", type=SECONDS, metavar="SECONDS", default=None, help="Seconds for running messages at the end."
)
@click.pass_context
def worker(
    ctx: click.Context,
    queues: str,
    exclude_queues: str,
    concurrency: int,
    name: str,
    loglevel: str | None,
    grace: float | None,
    suspects: bool,
    nice: int,
    log_file: str | None,
    **limits: Any,
) -> None:
    """Handle messages until told to end.

    TERM finishes what runs within the grace, INT does so and a second one ends at once, QUIT ends at once, TSTP stops taking
    messages and CONT takes them again, TTIN and USR1 write all stacks to stderr.
    """
    settings = settings_of(ctx, log_level=loglevel, grace=grace)
    make_state_dir(settings)
    if log_file is not None:
        _write_to(log_file)
    if nice:
        be_nice(nice)
    line = _start(settings, f"worker {name}", settings.grace)
    before = opened()
    app = find_app(settings, role="worker", may_own_file=False)
    served = chosen_queues(app, queues.split(","), exclude_queues.split(",") if exclude_queues else ())
    apart = launcher_of(app, settings, ctx.obj["config"], before) if app.registry.needs_processes(served) else None
    try:
        code = run(work(app, Pool(name, served, 1 if suspects else concurrency, limits, suspects, apart), settings, line))
    except ChappeError:
        raise
    except BaseException:  # whatever it is: a process that stays without its loop would be taken for one that works
        log.critical("%s ends by an error that it cannot handle", name, exc_info=True)
        code = _BROKEN
    output.last_reports.append(_close_logs)  # the application's handlers may wait for somebody who reads
    output.end_now(code)  # a synchronous handler that ignores its end would keep the interpreter waiting for its thread


def _write_to(file: str) -> None:
    """Have stdout and stderr be appended to a file. Raises `InvalidSettings`."""
    try:
        handle = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
    except OSError as error:
        raise InvalidSettings(f"log: {file} cannot be written ({error.strerror or error})") from None
    for standard in (1, 2):
        os.dup2(handle, standard)
    os.close(handle)


def _close_logs() -> None:
    output.flush_all()
    logging.shutdown()


@click.command()
@click.option("--host", default=None, help="Where to listen; anything but loopback needs a token.")
@click.option("--port", type=click.IntRange(0, 65535), default=None, help="0 takes a free one.")
@click.pass_context
def gateway(ctx: click.Context, host: str | None, port: int | None) -> None:
    """Take commands over HTTP."""
    import uvicorn

    from chappe.web.gateway import gateway as make_gateway
    from chappe.web.http_protocol import HttpProtocol, backlog
    from chappe.web.push import LARGEST_FRAME, PushWebSocket

    settings = settings_of(ctx, host=host, port=port)
    line = _start(settings, "gateway", settings.grace)
    app = find_app(settings, role="gateway", may_own_file=False)
    runs_handlers = any(command.__spec__.inline for command in app.registry.commands())
    config = uvicorn.Config(
        make_gateway(app), http=HttpProtocol, ws=PushWebSocket, ws_per_message_deflate=False, ws_max_size=LARGEST_FRAME, log_config=None,
        access_log=False,
        server_header=False, timeout_graceful_shutdown=int(settings.grace), lifespan="on", proxy_headers=False,
        backlog=backlog(), loop="chappe.bus.loop:LastingLoop" if runs_handlers else "auto",
    )  # fmt: skip

    asked: list[int] = []

    class Server(uvicorn.Server):
        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            if self.started:
                log.info("gateway listens on http://%s", place_of(settings.host, listener.getsockname()[1]))
                connecting = asyncio.create_task(connect(app, {"pid": os.getpid()}))
                while not connecting.done() and not self.should_exit and not asked:
                    await asyncio.wait((connecting,), timeout=_LOOK)
                if asked or self.should_exit:  # also a signal that came before uvicorn could hear it
                    self.should_exit = True
                    connecting.cancel()
                    return
                await connecting
                line.come_up()

    for number in (signal.SIGTERM, signal.SIGINT):
        # uvicorn raises a signal again when it has shut down: that is an end in order
        signal.signal(number, lambda number, _: asked.append(number))
    listener = _listener(settings)
    Server(config).run([listener])


def _listener(settings: Settings) -> socket.socket:
    """Return the socket that the supervisor handed over, or one of our own."""
    handle = os.environ.pop(LISTEN_VARIABLE, None)
    if handle is not None:
        return socket.socket(fileno=int(handle))
    try:
        return bound(settings.host, settings.port)
    except OSError as error:
        raise InvalidSettings(f"the gateway cannot listen on {place_of(settings.host, settings.port)}: {error.strerror or error}") from None


@click.command()
@click.pass_context
def scheduler(ctx: click.Context) -> None:
    """Send what is scheduled, waits in an outbox, or is archived for who begins in the past; several may run, each is sent once."""
    settings = settings_of(ctx)
    line = _start(settings, "scheduler", 5.0)
    app = find_app(settings, role="scheduler", may_own_file=False)
    names = [schedule.name for schedule in app.schedules]
    log.info("%s: %s", counted(len(names), "schedule"), ", ".join(names) or "none")

    async def main() -> None:
        connection = await connect(app, {"pid": os.getpid()})
        turning = Scheduler(
            app.schedules,
            connection.store,
            application=app.name,
            prepare=lambda message: app.bus.prepare(message, Draft(new_id())),
            merging=app.merger,
            now=steady_clock(),
        )
        line.come_up()
        try:
            await asyncio.gather(turning.run(), *(source() for source in app.sources))
        finally:
            await app.aclose()

    asyncio.run(_until_told(main()))
