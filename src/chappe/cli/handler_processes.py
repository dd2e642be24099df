"""Where the processes of handlers come from: forked from one that holds the imported application, or each an interpreter of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import traceback
from collections.abc import Callable
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
from chappe.settings import Settings
from chappe.supervisor.launcher import ExecLauncher, ForkLauncher, Launcher
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
        return lambda: ExecLauncher(environment, _reap)
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
    serve_forks(control, lambda _: lambda: _run(app, parent), os.setpgrp, ends_groups=True)


def _reap(process: subprocess.Popen[bytes]) -> int:
    """Return the exit code of a process that has ended, when what is left of its group has ended too."""
    end_group(process.pid)
    return process.wait()
