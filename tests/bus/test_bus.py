"""The bus: a fold over middleware on the way out and on the way in."""

import subprocess
import sys
from typing import Any

import msgspec
import pytest

from chappe import Command, Context, Event, Exchange
from chappe.bus.bus import Bus, CallNext, Handle, Middleware, Send
from chappe.bus.context import Leaving, Ports
from chappe.bus.draft import Draft, new_id
from chappe.bus.handler import Handler
from chappe.bus.providers import Providers
from chappe.bus.registry import Registry
from chappe.errors import NoHandler, TooLate
from chappe.messages.capabilities import MessageSpec
from chappe.messages.envelope import Publication
from chappe.messages.message import Message


class Work(Command, queue="work.q"):
    number: int = 0


class Worked(Event):
    number: int = 0


class Routed(Command, exchange=Exchange("jobs"), routing_key="job.{number}"):
    number: int


class Named(Middleware):
    """Writes when it is passed."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.log = name, log

    def wrap_send(self, spec: MessageSpec, call_next: Send) -> Send:
        def sending(message: Any, draft: Draft) -> Publication:
            self.log.append(f"{self.name} before")
            publication = call_next(message, draft)
            self.log.append(f"{self.name} after")
            return publication

        return sending

    def wrap_handle(self, spec: MessageSpec, call_next: Handle) -> Handle:
        async def handling(message: Any, context: Context) -> Any:
            self.log.append(f"{self.name} in")
            result = await call_next(message, context)
            self.log.append(f"{self.name} out")
            return result

        return handling


class Memory:
    """Handler marks in memory, as the store keeps them."""

    def __init__(self) -> None:
        self.marked: dict[str, dict[str, bytes | None]] = {}
        self.published: list[Message] = []

    def ports(self) -> Ports:
        async def mark(message_id: str, handler: str, then: Leaving, result: Any) -> bool:
            self.marked.setdefault(message_id, {})[handler] = None if result is None else msgspec.json.encode(result)
            self.published += [message for message, _ in then]
            return True

        async def marks(message_id: str) -> dict[str, bytes | None]:
            return dict(self.marked.get(message_id, {}))

        async def progress(message_id: str, done: int, total: int, text: str) -> None: ...

        return Ports(mark=mark, marks=marks, progress=progress)


def bus_of(*handlers: Any, middleware: tuple[Middleware, ...] = ()) -> Bus:
    registry = Registry()
    for handler in handlers:
        registry.add_handler(Work, Handler(handler), None)
    return Bus(registry, Providers(), middleware)


async def test_d7_middleware_runs_in_the_order_one_reads_on_both_sides() -> None:
    log: list[str] = []

    async def handler(command: Work) -> str:
        log.append("handler")
        return "result"

    bus = bus_of(handler, middleware=(Named("first", log), Named("second", log)))

    async def around(message: Any, context: Context, call_next: CallNext) -> Any:
        log.append("third in")
        return await call_next(message, context)

    bus.use(around)
    bus.prepare(Work(), Draft(new_id()))
    assert log == ["first before", "second before", "second after", "first after"]
    log.clear()
    assert await bus.handle(Work(), Context("id")) == "result"
    assert log == ["first in", "second in", "third in", "handler", "second out", "first out"]


async def test_a_middleware_is_asked_once_for_each_message_type_and_each_side() -> None:
    asked: list[str] = []

    class Asked(Middleware):
        def wrap_send(self, spec: MessageSpec, call_next: Send) -> Send:
            asked.append(f"send {spec.name}")
            return call_next

        def wrap_handle(self, spec: MessageSpec, call_next: Handle) -> Handle:
            asked.append(f"handle {spec.name}")
            return call_next

    async def handler(command: Work) -> None: ...

    bus = bus_of(handler, middleware=(Asked(),))
    for _ in range(3):
        bus.prepare(Work(), Draft(new_id()))
        bus.prepare(Worked(), Draft(new_id()))
        await bus.handle(Work(), Context("id"))
    assert asked == ["send work", "send worked", "handle work"]


@pytest.mark.parametrize("use", ["sending", "handling"])
async def test_the_first_use_freezes_the_bus(use: str) -> None:
    async def handler(command: Work) -> None: ...

    bus = bus_of(handler)
    bus.use(Middleware())
    assert not bus.frozen
    if use == "sending":
        bus.prepare(Work(), Draft(new_id()))
    else:
        await bus.handle(Work(), Context("id"))
    assert bus.frozen
    with pytest.raises(TooLate, match="before the first message"):
        bus.use(Middleware())


def test_a_command_goes_to_its_queue_and_an_event_to_the_events_exchange() -> None:
    bus = bus_of()
    command = bus.prepare(Work(number=1), Draft("id-1"))
    assert (command.exchange, command.routing_key) == ("", "work.q")
    assert (command.envelope.id, command.envelope.type, command.envelope.body) == ("id-1", "work", b'{"number":1}')
    event = bus.prepare(Worked(), Draft("id-2"))
    assert (event.exchange, event.routing_key) == ("events", "worked")
    routed = bus.prepare(Routed(number=7), Draft("id-3"))
    assert (routed.exchange, routed.routing_key) == ("jobs", "job.7")


def test_ids_sort_by_time() -> None:
    ids = [new_id() for _ in range(100)]
    assert ids == sorted(ids)
    assert len(set(ids)) == 100
    assert all(i[14] == "7" for i in ids)


async def test_a_message_without_handlers_says_what_to_write() -> None:
    with pytest.raises(NoHandler, match=r"nothing handles Work.*@app\.handles\(Work\)"):
        await bus_of().handle(Work(), Context("id"))


async def test_handlers_run_in_order_and_the_last_result_counts() -> None:
    log: list[int] = []

    async def first(command: Work) -> str:
        log.append(1)
        return "first"

    def second(command: Work) -> str:
        log.append(2)
        return "second"

    async def third(command: Work) -> None:
        log.append(3)

    bus = bus_of(first, second, third)
    assert await bus.handle(Work(), Context("id")) == "second"
    assert log == [1, 2, 3]
    await bus.close()


async def test_a_failure_in_the_second_of_three_handlers_resumes_at_the_second() -> None:
    log, memory, broken = list[str](), Memory(), [True]

    async def first(command: Work):
        log.append("first")
        yield Worked(number=1)

    async def second(command: Work) -> None:
        log.append("second")
        if broken:
            raise OSError("not now")

    async def third(command: Work):
        log.append("third")
        yield Worked(number=3)

    bus = bus_of(first, second, third)
    with pytest.raises(OSError, match="not now"):
        await bus.handle(Work(), Context("id", ports=memory.ports()))
    assert log == ["first", "second"]
    assert memory.published == [Worked(number=1)]
    broken.clear()
    context = Context("id", attempt=2, ports=memory.ports())
    await bus.handle(Work(), context)
    assert log == ["first", "second", "second", "third"]
    assert memory.published == [Worked(number=1)], "what the first yielded left once"
    assert [message for message, _ in context.then] == [Worked(number=3)], "what the last yielded leaves with the ack"
    assert context.marked


async def test_the_result_of_a_finished_handler_is_still_there_after_a_resume() -> None:
    memory, broken = Memory(), [True]

    async def first(command: Work) -> dict[str, int]:
        return {"order": 5}

    async def second(command: Work) -> None:
        if broken:
            raise OSError("not now")

    bus = bus_of(first, second)
    with pytest.raises(OSError, match="not now"):
        await bus.handle(Work(), Context("id", ports=memory.ports()))
    broken.clear()
    assert await bus.handle(Work(), Context("id", attempt=2, ports=memory.ports())) == {"order": 5}


async def test_what_several_handlers_yield_leaves_once_each_with_the_mark_of_its_own() -> None:
    memory = Memory()

    async def first(command: Work):
        yield Worked(number=1)

    async def second(command: Work):
        yield Worked(number=2)

    async def third(command: Work):
        yield Worked(number=3)

    context = Context("id", ports=memory.ports())
    await bus_of(first, second, third).handle(Work(), context)
    assert memory.published == [Worked(number=1), Worked(number=2)]
    assert [message for message, _ in context.then] == [Worked(number=3)]


async def test_marks_of_one_message_say_nothing_of_another() -> None:
    log, memory = list[str](), Memory()

    async def first(command: Work) -> None:
        log.append("first")

    async def second(command: Work) -> None: ...

    bus = bus_of(first, second)
    for identity in ("a", "b", "a"):
        await bus.handle(Work(), Context(identity, ports=memory.ports()))
    assert log == ["first", "first"]


async def test_one_handler_alone_costs_no_marks() -> None:
    memory = Memory()

    async def only(command: Work) -> None: ...

    context = Context("id", ports=memory.ports())
    await bus_of(only).handle(Work(), context)
    assert memory.marked == {}
    assert not context.marked


async def test_a_closed_bus_closes_what_was_provided_and_can_be_used_again() -> None:
    closed: list[int] = []

    class Tool:
        pass

    def tool():
        yield Tool()
        closed.append(1)

    from collections.abc import Iterator

    tool.__annotations__["return"] = Iterator[Tool]

    async def handler(command: Work, tool: Tool) -> int:
        return id(tool)

    bus = bus_of(handler)
    bus.providers.add(tool)
    await bus.handle(Work(), Context("id"))
    await bus.close()
    assert closed == [1]
    await bus.handle(Work(), Context("id"))
    await bus.close()
    assert closed == [1, 1]


def test_forked_children_do_not_repeat_each_others_ids_and_random_numbers() -> None:
    program = (
        "import os, random\nfrom chappe.bus.draft import new_id\nnew_id(), random.random()\nends = []\n"
        "for _ in range(8):\n    r, w = os.pipe()\n    if os.fork() == 0:\n"
        "        os.write(w, repr([new_id(), new_id(), random.random()]).encode()); os._exit(0)\n    ends.append(r)\n"
        "said = [eval(os.read(r, 1000)) for r in ends]\nassert len({x for line in said for x in line}) == 24, said\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
