"""Where the processes of handlers come from: forked from one that holds the imported application, or each an interpreter of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import click
import setproctitle
from msgspec.structs import replace

from chappe.app import App
from chappe.bus.loop import run
from chappe.cli.inherited import unshareable
from chappe.cli.launcher import end_group
from chappe.cli.launcher import serve as serve_forks
from chappe.cli.loading import find_app, settings_of, variables_of
from chappe.cli.logs import set_up
from chappe.lifetime import settle_down
from chappe.output import end_now
from chappe.search_path import child_command
from chappe.settings import Settings
from chappe.supervisor.launcher import ForkLauncher, Launcher
from chappe.worker.handler_process import serve


@click.command(hidden=True)
@click.pass_context
def handler(ctx: click.Context) -> None:
    """Run handlers for a worker, in an interpreter of its own."""
    settings = settings_of(ctx)
    set_up(settings, "handler")
    _run(find_app(settings), os.getppid())


def _run(app: App, parent: int) -> int:
    app.connections.setting = replace(app.connections.setting, role="client")
    setproctitle.setproctitle("chappe handler")
    run(serve(app, parent))
    return 0


def launcher_of(app: App, settings: Settings, config: Path | None, before: dict[int, str]) -> Callable[[], Launcher]:
    """Return what makes the launcher of handlers, in the event loop that it is to be used in; `before` is what was open before the import.

    The process that forks them is forked here, where this one has connected to nothing yet.
    """
    if not settings.fork or unshareable(before):
        environment = {**os.environ, **variables_of(settings, config)}
        return lambda: _Interpreters(environment)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork() == 0:
        try:
            ours.close()
            _fork_handlers(app, theirs)
        except BaseException:  # whatever it is: what went on here would be a second worker
            traceback.print_exc()
        finally:
            end_now(0)
    theirs.close()
    ours.setblocking(False)
    return lambda: ForkLauncher(ours)


def _fork_handlers(app: App, control: socket.socket) -> None:
    """Fork handlers until the worker is gone; signals are for the worker, which ends them."""
    os.setsid()
    setproctitle.setproctitle("chappe handlers")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda _, __: None)  # a handler, which is none any more in what a handler starts
    settle_down()
    parent = os.getpid()
    serve_forks(control, lambda _: _run(app, parent), os.setpgrp, ends_groups=True)


class _Interpreters:
    """Starts an interpreter for each handler process."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment

    async def start(self, arguments: Sequence[str], variables: Mapping[str, str], handles: Mapping[str, int]) -> _Interpreter:
        environment = {**self._environment, **variables, **{name: str(handle) for name, handle in handles.items()}}
        return _Interpreter(arguments, environment, tuple(handles.values()))

    async def close(self) -> None:
        return


class _Interpreter:
    """A process that is waited for only when its group has ended too."""

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str], handles: tuple[int, ...]) -> None:
        """Start it here and in no other thread: it ends with the thread that started it."""
        self._process = subprocess.Popen(
            child_command(arguments), stdin=subprocess.DEVNULL, pass_fds=handles, start_new_session=True, env=environment
        )  # fmt: skip
        self.pid = self._process.pid
        self._loop = asyncio.get_running_loop()
        self._code: asyncio.Future[int] = self._loop.create_future()
        self._handle = os.pidfd_open(self.pid)
        self._loop.add_reader(self._handle, self._ended)

    async def wait(self) -> int:
        return await asyncio.shield(self._code)

    def _ended(self) -> None:
        self._loop.remove_reader(self._handle)
        os.close(self._handle)
        end_group(self.pid)
        self._code.set_result(self._process.wait())
