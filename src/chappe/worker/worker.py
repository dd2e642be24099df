"""The loop that receives and runs messages: long-lived slots, batches both ways, no task for a message.

A slot is one asyncio task that handles messages one after the other. A handler that does not suspend costs
its slot nothing but a function call; one that does suspends its slot, and the next slot goes on.
"""

from __future__ import annotations

import asyncio
import collections
import contextvars
import functools
import logging
import time
from collections.abc import Callable

import msgspec

from chappe.beats import Clocked
from chappe.bus.bus import Bus
from chappe.bus.context import Context, Ports
from chappe.bus.loop import OwnTask, end_copy, interruption
from chappe.bus.merging import Merger
from chappe.bus.steps import Slot, current_slot, suspended
from chappe.engines.contract.broker import Ack, Consumer, Dead, Delivery, Retry, Settlement
from chappe.engines.contract.results import CANCELLED
from chappe.errors import BrokerError, NoHandler, UnknownMessage
from chappe.failures import describe, summarize
from chappe.forking import in_child
from chappe.messages.values import result_of
from chappe.words import counted
from chappe.worker.heartbeat import HardLimits
from chappe.worker.plans import Plan, Plans
from chappe.worker.prefetch import ahead
from chappe.worker.running_table import RunningTable
from chappe.worker.settling import NOT_READY_PAUSE, REFUSED_PAUSE, Settler
from chappe.worker.verdict import decide, own_note, report

log = logging.getLogger("chappe.worker")

_WAIT = 20.0
_SHORT = 0.05
_LAST_WAIT = 2.0  # for handlers to end that were cut off
_LINGER = 0.05  # for what is on its way to be in a call that is due
_TOGETHER = 250  # settlements that leave together, while the next messages run: the broker works at the same time


class _Cancelled(BaseException):
    """Ends the attempt of a message that somebody cancels; it leaves no slot."""


class Worker:
    """Runs the messages of some queues with a number of slots."""

    def __init__(
        self,
        bus: Bus,
        consumer: Consumer,
        *,
        merging: Merger,
        ports: Ports,
        concurrency: int,
        table: RunningTable,
        deploy_window: float = 0.0,
    ) -> None:
        """Prepare; nothing is received before `run`."""
        self._bus = bus
        self._consumer = consumer
        self._merging = merging
        self._ports = ports
        self._concurrency = self._allowed = concurrency
        self._places = concurrency + bus.registry.waiting_places
        self.clocked = Clocked()
        self._table = table
        self._limits = HardLimits(table)
        self._cancelled: set[int] = set()
        consumer.on_cancel(self._cancel)
        self._buffer: collections.deque[Delivery] = collections.deque()
        self._plans = Plans(bus, deploy_window)
        self._idle: list[asyncio.Future[None]] = []
        self._slots: dict[int, OwnTask[None]] = {}
        self._settler = Settler(consumer, merging, ports, after=self._ask, settled=self._finish_if_due)
        self._settlements = self._settler.waiting
        self._exits: dict[int, Settlement] = {}
        self._receives: set[asyncio.Task[float]] = set()
        self._wanted = 0
        self._settled = asyncio.Event()
        self._quiet = False
        self._stopping = False
        self.busy = self.held = self.done = self.failed = 0
        self.finished = asyncio.Event()
        self.most: int | None = None
        self._loop = asyncio.get_running_loop()
        self._nobody = contextvars.Context()  # of no attempt
        self._is_copy = False  # of a forked child
        in_child(self.disown)

    # --- life

    async def run(self) -> None:
        """Work until `stop` or `finish`; raises nothing that a message caused."""
        for index in range(self._places):
            self._spawn(index)
        self._ask()
        try:
            await self.finished.wait()
        finally:
            self._stopping = self._settler.is_ending = True  # whoever cancels us, like the end of the event loop, means the slots too
            for slot in self._slots.values():
                slot.interrupt(asyncio.CancelledError())

    async def stop(self, grace: float) -> int:
        """Stop receiving, give back what did not start, finish what runs within `grace` seconds, give back the rest.

        Says how many messages were cut off.
        """
        self._stopping = self._settler.is_ending = True
        self._give_back()
        log.info("takes nothing new, and waits up to %g s for what runs: %s", grace, counted(self.busy, "message"))
        deadline = self._loop.time() + grace
        while self.busy and self._loop.time() < deadline:
            self._settled.clear()
            try:
                async with asyncio.timeout_at(deadline):
                    await self._settled.wait()
            except TimeoutError:
                break
        cut = self.busy
        for slot in self._slots.values():
            slot.interrupt(asyncio.CancelledError())
        await asyncio.wait(self._slots.values(), timeout=_LAST_WAIT) if self._slots else None
        await self._settler.settle_all()
        self.finished.set()
        return cut

    def disown(self) -> None:
        """Be the copy of a worker in a forked child, which ends as soon as it is back in the event loop, or in one of our frames."""
        self._is_copy = self._quiet = True
        self._buffer.clear()

    def quiet(self, on: bool) -> None:
        """Stop or resume taking new messages, while what runs goes on."""
        self._quiet = on
        if not on:
            self._ask()
            self._wake()
            return
        self._give_back()

    def _cancel(self, tag: int) -> None:
        """End what runs, or what waits in the buffer; a thread goes on, and its message ends with it."""
        for delivery in [waits for waits in self._buffer if waits.tag == tag]:
            self._buffer.remove(delivery)
            self._settlements.append(Ack(tag, error=CANCELLED))
            self._settler.soon()
        for slot in self._slots.values():
            if isinstance(slot.runs, Delivery) and slot.runs.tag == tag:
                self._cancelled.add(tag)
                slot.interrupt(_Cancelled())

    def allow(self, slots: int) -> None:
        """Use so many slots at most from now on; what runs in others is finished, and what did not start is given back."""
        before, self._allowed = self._allowed, max(0, min(slots, self._concurrency))
        if self._allowed < before:
            self._give_back()
        self._ask()
        self._wake()

    def _give_back(self) -> None:
        """Ask for nothing more, and return what waits in the buffer to others, without counting an attempt."""
        for receive in self._receives:
            receive.cancel()
        while self._buffer:
            self._settlements.append(Retry(self._buffer.popleft().tag, 0.0, counted=False))
        self._settler.soon()

    # --- receiving

    def _ask(self) -> None:
        """Keep up to two requests on their way, for as many messages as slots and the buffer have room."""
        if self._quiet or self._stopping or not self._allowed:
            return
        capacity = self._allowed + ahead(self._settler.rate, self._allowed)
        wanted = capacity - len(self._buffer) - self.busy - self._wanted
        if self.most is not None:
            wanted = min(wanted, self.most - self.done - self.failed - len(self._buffer) - self.busy - self.held - self._wanted)
        if wanted <= 0 or len(self._receives) >= 2 or (self._receives and wanted < capacity // 4):
            return
        limit = wanted if self._receives or wanted < 100 else wanted // 2 + 1
        self._wanted += limit
        self._consumer.resize(2 * capacity + self._places)  # what is settled is out until the broker has heard it
        task = OwnTask(self._receive(limit), loop=self._loop)
        self._receives.add(task)
        task.add_done_callback(lambda done: self._received(done, limit))

    @property
    def asked(self) -> frozenset[asyncio.Task[float]]:
        """The requests for messages that have no answer yet."""
        return frozenset(self._receives)

    async def _receive(self, limit: int) -> float:
        """Fill the buffer once; give the seconds after which to ask again."""
        asked = time.monotonic()
        try:
            deliveries = await self._consumer.receive(limit, _WAIT)
        except BrokerError as error:
            log.warning("cannot receive (%s); trying again", error)
            return REFUSED_PAUSE
        except Exception as error:
            log.error("receiving failed: %s; trying again", summarize(error))
            return REFUSED_PAUSE
        if not deliveries:  # when everything allowed is out, there is nothing to ask for until something is settled
            return _SHORT if time.monotonic() - asked < _SHORT else 0.0
        if self._stopping:
            self._settlements += [Retry(d.tag, 0.0, counted=False) for d in deliveries]
            self._settler.soon()
        else:
            self._buffer.extend(deliveries)
            self._wake()
        return 0.0

    def _received(self, task: asyncio.Task[float], limit: int) -> None:
        """Ask again, also after a request that was cancelled: a task that is cancelled before its first step has no line to do it in."""
        self._receives.discard(task)
        self._wanted -= limit
        pause = 0.0 if task.cancelled() or task.exception() is not None else task.result()
        if pause > 0:
            self._loop.call_later(pause, self._ask)
        else:
            self._ask()

    # --- running

    def _spawn(self, index: int) -> None:
        slot = OwnTask(self._slot(index), loop=self._loop, name=f"slot-{index}", context=contextvars.Context())
        slot.add_done_callback(lambda done: self._vacated(index, done))
        self._slots[index] = slot

    def _vacated(self, index: int, slot: asyncio.Task[None]) -> None:
        """Put another in the place of a slot that broke: a worker that loses its slots one by one would end up deaf."""
        error = None if slot.cancelled() else slot.exception()
        if self._stopping or self._slots[index] is not slot:
            return
        self._spawn(index)
        self._wake()
        log.critical("slot %d broke and is replaced: %s", index, "cancelled" if error is None else summarize(error), exc_info=error)

    def _wake(self) -> None:
        if self._buffer and self._idle and not self._quiet and self.busy < self._allowed:
            idle = self._idle.pop()
            if idle.done():
                self._wake()
            else:
                idle.set_result(None)

    async def _pause(self) -> None:
        """Have the loop do its other duties, and wait until there may be a message to run.

        Handlers that never suspend must not keep the loop from them, nor the broker waiting.
        """
        if self._buffer and not self._quiet and not self._stopping and self.busy < self._allowed:
            if self._settlements:
                self._settler.flush()
            await asyncio.sleep(0)
            return
        idle: asyncio.Future[None] = self._loop.create_future()
        self._idle.append(idle)
        await idle
        self._loop.call_soon(self._wake)  # should this slot suspend, the next one goes on

    async def _slot(self, index: int) -> None:
        buffer, table, run, holds, settler, limits = self._buffer, self._table, self._run, self._consumer.holds, self._settler, self._limits
        me = self._slots[index]
        executes = functools.partial(self._step, index)
        current_slot.set(Slot(executes, functools.partial(table.in_thread, index), self._hold, self._leave_later))
        self._leave(index)
        variables = len(contextvars.copy_context())
        clock, turn_ends = time.monotonic, 0.0
        while True:
            if (
                not buffer
                or clock() > turn_ends
                or len(self._settlements) >= _TOGETHER
                or self.busy >= self._allowed
                or self._quiet
                or self._stopping
            ):  # fmt: skip - or there is something else to do than the next message
                self._leave(index)
                await self._pause()
                turn_ends = clock() + _SHORT
                continue
            delivery = buffer.popleft()
            if not holds(delivery.tag):
                continue  # the engine was restarted, or gave us up for a while: somebody else has it
            table.begin(index, delivery.tag)
            self.busy += 1
            me.begin(delivery)
            try:
                handling = run(delivery)
                for waits_for in handling.__await__():  # never, if it does not suspend: unlike send() this costs no exception
                    await suspended(handling, waits_for, executes)
                    break
            except GeneratorExit:
                if (left := self._exits.pop(delivery.tag, None)) is None:
                    raise
                self._settlements.append(left)
            finally:
                if self._is_copy:
                    end_copy(f"the handler of {delivery.envelope.type} {delivery.envelope.id}")
                self.busy -= 1
                if limits.watched:
                    limits.end(delivery.tag)
                if self._cancelled:
                    self._cancelled.discard(delivery.tag)
            if not settler.is_due:
                settler.soon()
            if self._stopping or me.cancelling() or len(contextvars.copy_context()) != variables:
                self._retire(index)  # context variables that a handler left behind, or a cancellation, must not reach the next message
                return

    def _hold(self, count: int) -> None:
        """Count messages that wait for others to be handled with, whose slots others may use."""
        self.held += count
        self.busy -= count
        if count > 0 and not self._stopping:
            self._loop.call_soon(self._wake)
            self._loop.call_soon(self._ask, context=self._nobody)

    def _leave_later(self, seconds: float, leave: Callable[[], None]) -> asyncio.TimerHandle | None:
        """Handle what waits together when the oldest has waited for so long."""
        return self._loop.call_later(max(_LINGER, seconds), leave)

    def _leave(self, index: int) -> None:
        """Note that a slot runs nothing any more, before it waits or ends."""
        self._slots[index].begin(None)
        self._table.end(index)

    def _retire(self, index: int) -> None:
        """Have another slot take the place of one, unless this worker stops."""
        self._leave(index)
        if self._stopping:
            self._settled.set()
            return
        self._spawn(index)
        self._loop.call_soon(self._wake)

    def _step(self, index: int, executes: bool) -> None:
        """Note whether a slot executes code of a handler, or waits."""
        if self._is_copy:
            end_copy(f"the handler in slot {index}")
        self._table.step(index, executes)

    async def _run(self, delivery: Delivery) -> None:
        """Decode, handle, decide: every delivery ends in exactly one settlement."""
        envelope = delivery.envelope
        plan = self._plans.get((envelope.type, delivery.queue, envelope.content_type)) or await self._planned(delivery)
        if plan is None:
            return
        try:
            message = plan.decode(envelope.body)
        except BaseException as error:  # also what a message's own __post_init__ raises: it will not be better next time
            self._cannot(delivery, error)
            return
        started = time.time()
        context = Context(
            envelope.id,
            attempt=delivery.attempt,
            queue=delivery.queue,
            sent_at=envelope.timestamp,
            headers=envelope.headers,
            correlation_id=envelope.correlation_id,
            note=None if delivery.note is None else own_note(delivery.note),
            ports=self._ports,
            now=self._bus.now,
            tag=delivery.tag,
        )
        if plan.kill_after is not None:
            beyond = decide(delivery.tag, plan.judge(context, TimeoutError()))
            self._limits.begin(beyond, plan.kill_after, f"{envelope.type} {envelope.id}")
        try:
            try:
                result = await plan.handle(message, context)
            finally:
                context.end()
            written, missing = (None, None) if result is None else result_of(result)
            if missing is not None:
                log.error("%s %s is %s", envelope.type, envelope.id, missing)
            then = self._merging.fold(self._bus.prepared(context.then)) if context.then else ()
            settlement = Ack(delivery.tag, then, written, context.marked, missing)
            self.done += 1
        except BaseException as error:  # whatever a handler does, its delivery ends in one settlement; sys.exit() is a failure like others
            settlement = self._failed(delivery, context, plan, error)
        started += context.waited
        took = time.time() - started
        self.clocked.add(delivery.queue, started - envelope.timestamp if delivery.attempt == 1 else None, took)
        if plan.is_fair:
            settlement = msgspec.structs.replace(settlement, took=took)
        self._settlements.append(settlement)

    def _failed(self, delivery: Delivery, context: Context, plan: Plan, error: BaseException) -> Settlement:
        """Return the settlement of an attempt that raised."""
        if isinstance(error, asyncio.CancelledError) and (why := interruption()) is not None:
            if isinstance(why, asyncio.CancelledError):
                return decide(delivery.tag, error, stopping=True)
            error = why
        if delivery.tag in self._cancelled:
            log.info("%s %s was cancelled while it ran", delivery.envelope.type, delivery.envelope.id)
            return Ack(delivery.tag, marked=True, error=CANCELLED)
        self.failed += 1
        verdict: BaseException = error
        try:
            verdict = plan.judge(context, error)
            settlement = decide(delivery.tag, verdict)
            report(delivery, settlement)
        except Exception as failure:  # of a verdict of the user's own making, perhaps: it must not leave its message running for ever
            settlement = Dead(delivery.tag, "failed", describe(failure))
        return self._past(verdict, self._past(verdict.__cause__, settlement))

    def _past(self, error: BaseException | None, settlement: Settlement) -> Settlement:
        """Return a settlement, or leave it to the slot: Python closes what a coroutine awaits when it throws a `GeneratorExit` into it."""
        if not isinstance(error, GeneratorExit):
            return settlement
        if asyncio.current_task(self._loop) in self._slots.values():  # else it is the coroutine of the slot itself that is closed
            self._exits[settlement.delivery] = settlement
        raise error

    async def _planned(self, delivery: Delivery) -> Plan | None:
        """Find out how to handle a delivery, or settle it."""
        try:
            return await self._plans.find(delivery)
        except (UnknownMessage, NoHandler, msgspec.DecodeError) as error:
            self._cannot(delivery, error)
        except BaseException as error:  # a provider that cannot be made is no fault of the message
            if self._stopping:
                raise
            name, why = delivery.envelope.type, summarize(error)
            log.error("%s cannot be handled yet, again in %g s: %s", name, NOT_READY_PAUSE, why, exc_info=error)
            self._settlements.append(self._past(error, Retry(delivery.tag, NOT_READY_PAUSE, counted=False, note=delivery.note)))
        return None

    def _cannot(self, delivery: Delivery, error: BaseException) -> None:
        """Settle what this release cannot handle, or cannot decode."""
        settlement = self._plans.refusal(delivery, error)
        self.failed += isinstance(settlement, Dead)
        self._settlements.append(settlement)

    def _finish_if_due(self) -> None:
        if self.most is not None and self.done + self.failed >= self.most and not self.busy and not self._settler.under_way:
            self.finished.set()
