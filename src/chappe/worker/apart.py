"""Handlers that run in processes of their own: the capability `process`."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import os
import signal
import socket
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol, Self

import msgspec

from chappe.bus.bus import Bus
from chappe.bus.context import Context
from chappe.bus.handler import Handler, Invoke
from chappe.errors import ProcessLost, Reject, RetryLater, Snooze
from chappe.failures import Elsewhere
from chappe.messages.message import Message, writer_of
from chappe.messages.values import NoResult
from chappe.worker.handler_process import SOCKET_VARIABLE, Begun, Call, Done, Failed, Progress, Throttle, decode_said, read, write

log = logging.getLogger("chappe.worker")

_LAST_WAIT: Final = 2.0
_NOT_READY_PAUSE: Final = 5.0


class Process(Protocol):
    """A process that was started; whoever waits for it ends what is left of its group first."""

    @property
    def pid(self) -> int: ...

    async def wait(self) -> int: ...


class Starter(Protocol):
    """Starts processes that serve handlers; see `supervisor.launcher.Launcher`."""

    async def start(self, arguments: Sequence[str], variables: Mapping[str, str], handles: Mapping[str, int]) -> Process: ...

    async def close(self) -> None: ...


class _NotBegun(Exception):
    """The process ended before the handler began."""


class Apart:
    """The processes in which one worker has handlers run: one for each message that runs, kept for the next."""

    def __init__(self, bus: Bus, starter: Starter) -> None:
        self._bus = bus
        self._starter = starter
        self._idle: list[_HandlerProcess] = []

    def invoke_of(self, handler: Handler, kind: type[Message], queue: str | None) -> Invoke:
        """Return what has a handler run in a process of its own."""
        spec, write_body = kind.__spec__, writer_of(kind)
        memory = None if spec.process is None else spec.process.memory

        async def invoke(message: Any, context: Context) -> Any:
            call = Call(
                spec.name, handler.name, write_body(message), memory, context.id, context.attempt, queue or "", context.sent_at,
                context.headers, context.correlation_id, context.note, context.budgets,
            )  # fmt: skip
            while True:
                with contextlib.suppress(_NotBegun):
                    answer = await self._run(call, context, spec.kill_after)
                    if isinstance(answer, Done) and answer.declares is not None:
                        self._bus.registry.add_topology(answer.declares)
                    return _outcome(answer, context)

        return invoke

    async def _run(self, call: Call, context: Context, kill_after: float | None) -> Done | Failed:
        """Have a call be answered, or end the process: it has no other message to care for."""
        process = await self._taken(context)
        limit = asyncio.timeout(kill_after)
        try:
            async with limit:
                answer = await process.ask(call, context)
        except BaseException as error:
            await process.end()
            if isinstance(error, TimeoutError) and limit.expired():
                raise ProcessLost(f"its process was ended: it ran longer than its kill_after of {kill_after:g} s") from None
            raise
        if isinstance(answer, Failed) and answer.is_spent:
            await process.end()
        else:
            self._idle.append(process)
        return answer

    async def _taken(self, context: Context) -> _HandlerProcess:
        while self._idle:
            process = self._idle.pop()
            if not process.is_gone:
                return process
            await process.end()
        starting = asyncio.get_running_loop().create_task(self._started(), context=contextvars.Context())  # it is of no attempt
        try:
            return await starting
        except OSError as error:
            log.error("no process can be started for a handler: %s; trying again in %g s", error, _NOT_READY_PAUSE)
            if isinstance(error, ConnectionError):  # what starts them is gone: a worker that is started again has another
                os.kill(os.getpid(), signal.SIGTERM)
            raise Snooze(_NOT_READY_PAUSE, note=context.note) from None

    async def _started(self) -> _HandlerProcess:
        ours, theirs = socket.socketpair()
        try:
            process = await self._starter.start(("handler",), {}, {SOCKET_VARIABLE: theirs.fileno()})
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        return _HandlerProcess(process, *await asyncio.open_connection(sock=ours))

    async def __aenter__(self) -> Self:
        self._bus.isolate = self.invoke_of
        return self

    async def __aexit__(self, *_: object) -> None:
        """Have all processes end in order, as far as they do so soon."""
        for process in self._idle:
            process.writer.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_WAIT):
                for process in self._idle:
                    await process.wait()
        await self._starter.close()


class _HandlerProcess:
    """One process, and the way to it."""

    def __init__(self, process: Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.wait = process.wait
        self.writer = writer
        self._reader = reader
        self._handle: int | None = None  # its number may be somebody else's when it has ended
        with contextlib.suppress(ProcessLookupError):
            self._handle = os.pidfd_open(process.pid)

    @property
    def is_gone(self) -> bool:
        """Whether it has ended, as far as is known."""
        return self._reader.at_eof()

    async def ask(self, call: Call, context: Context) -> Done | Failed:
        """Have it run a handler; raises `ProcessLost` if it ended meanwhile."""
        has_begun = False
        write(self.writer, call)
        while (frame := await read(self._reader)) is not None:
            match decode_said(frame):
                case Begun():
                    has_begun = True
                case Progress(done, total, text):
                    await context.progress(done, total, text)
                case Throttle(budget, until):
                    await context.ports.throttle(budget, until)
                case answer:
                    return answer
        if not has_begun:
            raise _NotBegun
        code = await self.wait()
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        raise ProcessLost(f"its process {how} while it ran this")

    async def end(self) -> None:
        """Kill it, and with it what it started in its group, and wait until it has ended."""
        self.writer.close()
        handle, self._handle = self._handle, None
        if handle is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(handle, signal.SIGKILL)
            os.close(handle)
        await self.wait()


def _outcome(answer: Done | Failed, context: Context) -> Any:
    """Return what a handler returned, and keep what it sent; raises what it raised."""
    if isinstance(answer, Done):
        context.then.extend(answer.then)
        if answer.missing is not None:
            return NoResult(answer.missing)
        return None if answer.result is None else msgspec.json.decode(answer.result)
    cause = None if answer.cause is None else Elsewhere(*answer.cause)
    match answer.kind:
        case "retry":
            raise RetryLater(answer.reason, after=answer.after) from cause
        case "snooze":
            raise Snooze(answer.after or 0.0, answer.reason, note=answer.note) from cause
        case "reject":
            raise Reject(answer.reason) from cause
        case _:
            assert cause is not None
            raise cause
