"""A process that runs handlers one at a time for a worker, which handles everything around them; and what the two say to each other."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import resource
import signal
import socket
from collections.abc import Callable, Mapping
from typing import Final, Literal, Protocol

import msgspec
from msgspec import Struct

from chappe.bus.bus import Bus
from chappe.bus.context import Context, Ports
from chappe.bus.loop import attempted
from chappe.errors import RetryLater, Snooze, Verdict
from chappe.failures import describe, summarize, verdict_of
from chappe.messages.codec import decoder
from chappe.messages.envelope import Publication
from chappe.messages.topology import Topology
from chappe.messages.values import result_of
from chappe.niceness import share_of_session

log = logging.getLogger("chappe.worker")

SOCKET_VARIABLE: Final = "CHAPPE_HANDLER_FD"
_MIB: Final = 1024 * 1024
_NICE: Final = 10
_NOT_READY_PAUSE: Final = 5.0
_PR_SET_PDEATHSIG: Final = 1


class Call(Struct, array_like=True):
    """Asks for one handler to be run; `handler` is its name, `memory` the MiB that the process may hold meanwhile."""

    type: str
    handler: str
    body: bytes
    memory: int | None
    id: str
    attempt: int
    queue: str
    sent_at: float
    headers: Mapping[str, str]
    correlation_id: str | None
    note: str | None
    budgets: dict[str, float | None]


class Begun(Struct, array_like=True, tag="begun"):
    """The handler is about to run: whatever happens from now on is its doing."""


class Progress(Struct, array_like=True, tag="progress"):
    """The handler says how far it is."""

    done: int
    total: int
    text: str


class Throttle(Struct, array_like=True, tag="throttle"):
    """The handler has nothing more of its budget start before a time."""

    budget: str
    until: float | None


class Done(Struct, array_like=True, tag="done"):
    """The handler returned: its result, or why there is none, what it sent, and the topology where that is new to this process."""

    result: bytes | None
    missing: str | None
    then: tuple[Publication, ...]
    declares: Topology | None = None


class Failed(Struct, array_like=True, tag="failed"):
    """The handler raised: a verdict, or an error, whose summary and text are `cause`; `is_spent` says that this process ends."""

    kind: Literal["retry", "snooze", "reject", "error"]
    reason: str = ""
    after: float | None = None
    note: str | None = None
    cause: tuple[str, str] | None = None
    is_spent: bool = False


encode: Final = msgspec.msgpack.Encoder().encode
decode_call: Final = msgspec.msgpack.Decoder(Call).decode
decode_said: Final = msgspec.msgpack.Decoder(Begun | Progress | Throttle | Done | Failed).decode


async def read(reader: asyncio.StreamReader) -> bytes | None:
    """Return the next frame, or nothing when the other side is gone."""
    try:
        return await reader.readexactly(int.from_bytes(await reader.readexactly(4)))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


def write(writer: asyncio.StreamWriter, said: Struct) -> None:
    """Send a frame."""
    frame = encode(said)
    writer.write(len(frame).to_bytes(4) + frame)


class Program(Protocol):
    """What such a process needs of an application."""

    bus: Bus

    async def aclose(self) -> None: ...


async def serve(app: Program, parent: int) -> None:
    """Run what the worker asks for until it is gone; `parent` is who started this process, which does not outlive it."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return
    _step_back()
    app.bus.set_threads(1)
    control = socket.socket(fileno=int(os.environ.pop(SOCKET_VARIABLE)))
    reader, writer = await asyncio.open_connection(sock=control)
    while (frame := await read(reader)) is not None:
        answer = await _answer(app.bus, decode_call(frame), lambda said: write(writer, said))
        write(writer, answer)
        await writer.drain()
        if isinstance(answer, Failed) and answer.is_spent:
            break
    await app.aclose()


def _step_back() -> None:
    """Leave the processor to others: what computes gives way at once to what waits for messages.

    A nice value would only make its share small; whoever is woken would still wait until its slice ends.
    """
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    share_of_session(_NICE)


async def _answer(bus: Bus, call: Call, say: Callable[[Struct], None]) -> Done | Failed:
    """Run one handler to its end."""
    kind = bus.registry.message(call.type)
    handler = next(h for h in bus.registry.handlers_of(kind, call.queue) if h.name == call.handler)
    try:
        invoke = await bus.apart(handler, kind)
    except BaseException as error:  # a provider that cannot be made is no fault of the message
        log.error("%s cannot be handled yet, again in %g s: %s", call.type, _NOT_READY_PAUSE, summarize(error), exc_info=error)
        return Failed("snooze", summarize(error), _NOT_READY_PAUSE, call.note)
    context, known = _context(bus, call, say), bus.registry.topology()
    say(Begun())
    try:
        _limit_memory(call.memory)
        try:
            with attempted(context, f"the handler of {call.type} {call.id}"):
                result = await invoke(decoder(kind)(call.body), context)
        finally:
            _limit_memory(None)
            context.end()
        then = tuple(bus.prepared(context.then))
        topology = bus.registry.topology()
        return Done(*result_of(result), then, None if topology is known else topology)
    except BaseException as error:  # whatever it is, the worker decides what becomes of it
        return _failed(error, call.memory)


def _context(bus: Bus, call: Call, say: Callable[[Struct], None]) -> Context:
    async def progress(_: str, done: int, total: int, text: str) -> None:
        say(Progress(done, total, text))

    async def throttle(budget: str, until: float | None) -> None:
        say(Throttle(budget, until))

    return Context(
        call.id, attempt=call.attempt, queue=call.queue, sent_at=call.sent_at, headers=call.headers, correlation_id=call.correlation_id,
        note=call.note, ports=Ports(progress=progress, throttle=throttle, loop=asyncio.get_running_loop()), now=bus.now,
        budgets=call.budgets,
    )  # fmt: skip


def _failed(error: BaseException, memory: int | None) -> Failed:
    """Return what is told of an error."""
    failed = verdict_of(error)
    cause = failed.__cause__ if isinstance(failed, Verdict) else None
    told = (summarize(cause or failed), describe(failed))
    if not isinstance(failed, Verdict):
        is_spent = isinstance(failed, MemoryError)
        if is_spent and memory is not None:
            summary = f"MemoryError: it needs more than the {memory} MiB of its Process(memory={memory})"
            told = (summary, f"{summary}\n\n{told[1]}")
        return Failed("error", cause=told, is_spent=is_spent)
    if isinstance(failed, Snooze):
        return Failed("snooze", failed.reason, failed.after, failed.note, told)
    if isinstance(failed, RetryLater):
        return Failed("retry", failed.reason, failed.after, None, told)
    return Failed("reject", failed.reason, cause=told)


def _limit_memory(mib: int | None) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = most if mib is None else mib * _MIB
    resource.setrlimit(resource.RLIMIT_DATA, (wanted if most == resource.RLIM_INFINITY else min(wanted, most), most))
