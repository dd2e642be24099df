"""`chappe launcher`: holds the imported application, and forks the processes of a host from it; `chappe run` starts it."""

from __future__ import annotations

import contextlib
import importlib
import os
import selectors
import signal
import socket
import sys
import traceback
from collections.abc import Callable

import click
import msgspec
import setproctitle

from chappe.cli.first_process import ended_children
from chappe.cli.inherited import opened, unshareable
from chappe.cli.loading import find_app, hold, settings_of
from chappe.cli.logs import set_up
from chappe.lifetime import settle_down
from chappe.output import end_now
from chappe.supervisor.launcher import CONTROL_VARIABLE, LARGEST, MOST_HANDLES, Ended, Loaded, Start, Started, decode_start, encode


@click.command(hidden=True)
@click.option("--no-gateway", is_flag=True, help="Hold nothing of the web.")
@click.pass_context
def launcher(ctx: click.Context, no_gateway: bool) -> None:
    """Import the application, then fork the processes that the supervisor asks for."""
    settings = msgspec.structs.replace(settings_of(ctx), token=None)
    set_up(settings, "launcher")
    setproctitle.setproctitle("chappe launcher")
    web = () if no_gateway else ("chappe.web.gateway", "chappe.web.http_protocol", "uvicorn")
    for module in ("chappe.cli.processes", *web):
        importlib.import_module(module)  # once for all, and before there is a project's folder in which they may be found
    before = opened()
    find_app(settings)
    kept = unshareable(before)
    hold(settings)
    control = socket.socket(fileno=int(os.environ.pop(CONTROL_VARIABLE)))
    settle_down()
    control.send(encode(Loaded(kept)))
    serve(control, _prepared)


def _prepared(arguments: tuple[str, ...]) -> Callable[[], int]:
    """Return what runs a verb in a forked process and returns its exit code.

    Its arguments are read here: reading them touches so much that each process would have 2 MB of memory for itself afterwards.
    """
    from chappe.cli import end_with, read

    verb = read(arguments)

    def run() -> int:
        try:
            end_with(verb)
        except SystemExit as ended:
            return ended.code if isinstance(ended.code, int) else int(ended.code is not None)

    return run


def serve(
    control: socket.socket,
    prepared: Callable[[tuple[str, ...]], Callable[[], int]],
    divide: Callable[[], None] = os.setsid,
    *,
    ends_groups: bool = False,
) -> None:
    """Fork what is asked for and tell who ended, until whoever asks is gone; `divide` has a process take no signals of ours.

    `prepared` is asked before the fork for what a process runs. With `ends_groups` what a process leaves behind in its group ends with it.
    """
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_read, False)
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda _, __: None)  # a handler, so that the signal wakes the selector
    with selectors.DefaultSelector() as selector:
        selector.register(control, selectors.EVENT_READ)
        selector.register(wake_read, selectors.EVENT_READ)
        while True:
            ready = {key.fileobj for key, _ in selector.select()}
            if wake_read in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(wake_read, 4096)
                for child, code in ended_children(end_group if ends_groups else lambda _: None):
                    with contextlib.suppress(OSError):  # the supervisor is gone
                        control.send(encode(Ended(child, code)))
            if control in ready:
                frame, handles, _, _ = socket.recv_fds(control, LARGEST, MOST_HANDLES)
                if not frame:
                    return
                asked = decode_start(frame)
                run = prepared(asked.arguments)
                pid, fault = -1, ""
                try:
                    pid = os.fork()
                except OSError as error:
                    fault = str(error)
                if pid == 0:
                    selector.close()
                    for handle in (wake_read, wake_write):
                        os.close(handle)
                    control.close()
                    _become(asked, handles, run, divide)
                for handle in handles:
                    os.close(handle)
                control.send(encode(Started(asked.serial, max(0, pid), fault)))


def _become(asked: Start, handles: list[int], run: Callable[[], int], divide: Callable[[], None]) -> None:
    """Be the process that was asked for, to its end."""
    code = 70
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        divide()  # a Ctrl-C in the terminal is for the supervisor, which tells us
        os.environ.update(asked.variables)
        os.environ.update({name: str(handle) for name, handle in zip(asked.handles, handles, strict=True)})
        code = run()
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:  # whatever it is: a process that went on here would be a second launcher
        traceback.print_exc()
    finally:
        end_now(code)


def end_group(leader: int) -> None:
    """Kill what is left of the group of a process that has ended and was not waited for: until then its number is nobody else's."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)
