"""How processes are started: each by an interpreter of its own, or forked from one that holds the imported application."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Mapping, Sequence
from typing import Final, assert_never

import msgspec

from chappe.errors import ChildFailed
from chappe.search_path import child_command

log = logging.getLogger("chappe.supervisor")

CONTROL_VARIABLE: Final = "CHAPPE_CONTROL_FD"
LISTEN_VARIABLE: Final = "CHAPPE_LISTEN_FD"

UNKNOWN_END: Final = 70  # the exit code of a process whose launcher ended before it
LARGEST: Final = 64 * 1024  # bytes of one frame between supervisor and launcher
MOST_HANDLES: Final = 8


class Start(msgspec.Struct, array_like=True, tag="start"):
    """Asks for a process; `handles` names the variables that tell it the descriptors that come with this frame, in their order."""

    serial: int
    arguments: tuple[str, ...]
    variables: dict[str, str]
    handles: tuple[str, ...]


class Loaded(msgspec.Struct, array_like=True, tag="loaded"):
    """Says that the application is imported, and what it started or opened meanwhile, after which forking is not safe."""

    kept: list[str]


class Started(msgspec.Struct, array_like=True, tag="started"):
    """Answers `Start`, also one that was not possible, which has no process."""

    serial: int
    pid: int = 0
    fault: str = ""


class Ended(msgspec.Struct, array_like=True, tag="ended"):
    """Says that a process ended, with its exit code or the number of a signal, negative."""

    pid: int
    code: int


_decode: Final = msgspec.msgpack.Decoder(Loaded | Started | Ended).decode
decode_start: Final = msgspec.msgpack.Decoder(Start).decode
encode: Final = msgspec.msgpack.Encoder().encode


class Process:
    """A process that was started; whoever is told of its end says so."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._loop = asyncio.get_running_loop()
        self._code: asyncio.Future[int] = self._loop.create_future()

    async def wait(self) -> int:
        """Wait for its end and return the exit code; a signal is its number, negative."""
        return await asyncio.shield(self._code)

    def end(self, code: int) -> None:
        """Hear that it ended."""
        if not self._code.done():
            self._code.set_result(code)

    def watch(self, code: Callable[[], int]) -> None:
        """Have the system tell when it ends, and then ask for its exit code. Raises `OSError`."""
        handle = os.pidfd_open(self.pid)

        def ended() -> None:
            self._loop.remove_reader(handle)
            os.close(handle)
            self.end(code())

        self._loop.add_reader(handle, ended)

    def kill(self) -> None:
        """Kill it, unless it has ended."""
        if not self._code.done():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)


class ExecLauncher:
    """Starts an interpreter for each process, which imports the application itself."""

    def __init__(
        self, environment: Mapping[str, str], reap: Callable[[subprocess.Popen[bytes]], int] = subprocess.Popen[bytes].wait
    ) -> None:
        """Take the variables of all processes; `reap` returns the exit code of one that has ended."""
        self._environment = environment
        self._reap = reap

    async def start(self, arguments: Sequence[str], variables: Mapping[str, str], handles: Mapping[str, int]) -> Process:
        """Start `chappe` with these arguments, variables and descriptors, each named by a variable. Raises `OSError`."""
        started = subprocess.Popen(  # noqa: ASYNC220 - in this thread, with which some are to end; it takes a millisecond
            child_command(arguments),
            stdin=subprocess.DEVNULL,
            pass_fds=tuple(handles.values()),
            start_new_session=True,  # a Ctrl-C in the terminal is for us; we tell the children
            env={**self._environment, **variables, **{name: str(handle) for name, handle in handles.items()}},
        )  # fmt: skip
        process = Process(started.pid)
        process.watch(lambda: self._reap(started))
        return process

    async def close(self) -> None:
        """Do nothing: each process stands by itself."""


class ForkLauncher:
    """Forks processes from one that has imported the application and opened nothing (design §10)."""

    def __init__(self, control: socket.socket, process: Process | None = None) -> None:
        """Take over a launcher process that was just started; see `open_launcher`. One that was forked from here ends with its socket."""
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.loaded: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()
        self._process = process
        self._control = control
        self._serial = 0
        self._starting: dict[int, asyncio.Future[Process]] = {}
        self._running: dict[int, Process] = {}
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(control, self._readable)

    async def start(self, arguments: Sequence[str], variables: Mapping[str, str], handles: Mapping[str, int]) -> Process:
        """Start `chappe` with these arguments, variables and descriptors, each named by a variable. Raises `OSError`."""
        if self.ended.done():
            raise ConnectionResetError("the launcher of processes has ended")
        self._serial += 1
        serial, started = self._serial, self._loop.create_future()
        self._starting[serial] = started
        frame = encode(Start(serial, tuple(arguments), dict(variables), tuple(handles)))
        try:
            socket.send_fds(self._control, [frame], list(handles.values()))
            return await started
        finally:
            self._starting.pop(serial, None)

    async def close(self) -> None:
        """End the launcher process; what it forked runs on, and its ends are watched without it."""
        self._lose()
        if self._process is not None:
            self._process.kill()
            await self._process.wait()

    def _readable(self) -> None:
        try:
            data = self._control.recv(LARGEST)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._lose()
            return
        frame = _decode(data)
        match frame:
            case Loaded(kept):
                self.loaded.set_result(kept)
            case Started(serial, pid, fault):
                future = self._starting.get(serial)
                if pid:
                    self._running[pid] = Process(pid)
                if future is not None and not future.done():
                    future.set_exception(OSError(fault)) if fault else future.set_result(self._running[pid])
            case Ended(pid, code):
                if (forked := self._running.pop(pid, None)) is not None:  # else a process of the application's own
                    forked.end(code)
            case _:
                assert_never(frame)

    def _lose(self) -> None:
        """Go on without the launcher process: nothing more is started, and each end is heard from the system, without its code."""
        if self.ended.done():
            return
        self.ended.set_result(None)
        self._loop.remove_reader(self._control)
        self._control.close()
        for future in (*self._starting.values(), self.loaded):
            if not future.done():
                future.set_exception(ConnectionResetError("the launcher of processes has ended"))
        if not self.loaded.cancelled():
            self.loaded.exception()  # nobody may wait for it any more, which asyncio would report
        for forked in self._running.values():
            try:
                forked.watch(lambda: UNKNOWN_END)
            except OSError:
                forked.end(UNKNOWN_END)
        self._running.clear()


Launcher = ExecLauncher | ForkLauncher


async def open_launcher(environment: Mapping[str, str], seconds: float, *, fork: bool, gateway: bool) -> Launcher:
    """Return what starts processes of an application that can be imported; raises `ChildFailed` if it cannot.

    Where they are not to be forked, or the application started threads while it was imported, which a forked process lacks, or opened
    what all would share, each process has its own interpreter.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        process = await ExecLauncher(environment).start(
            ("launcher", *(() if gateway else ("--no-gateway",))), {}, {CONTROL_VARIABLE: theirs.fileno()}
        )
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    ours.setblocking(False)
    launcher = ForkLauncher(ours, process)
    try:
        async with asyncio.timeout(seconds):
            kept = await asyncio.shield(launcher.loaded)
    except TimeoutError:
        await launcher.close()
        raise ChildFailed(f"the application was not imported within {seconds:g} s") from None
    except ConnectionResetError:
        await launcher.close()
        raise ChildFailed("the application cannot be imported; see what was said above") from None
    except BaseException:
        process.kill()
        raise
    if kept and fork:
        log.warning(
            "the application starts or opens what forked processes cannot share while it is imported (%s), so its processes are not "
            "forked; do so in functions that it provides, or set fork = false",
            ", ".join(kept),
        )
    if kept or not fork:
        await launcher.close()
        return ExecLauncher(environment)
    return launcher
