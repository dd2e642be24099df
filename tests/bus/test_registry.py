"""The registry: which messages there are, who handles them, and the queues that follow."""

import functools
from collections.abc import Callable
from typing import Annotated, Any, Literal

import pytest

from chappe import App, Command, Event, Exchange, bind
from chappe.bus.handler import Handler
from chappe.bus.registry import Registry
from chappe.errors import DefinitionError, DuplicateName, NoHandler, TopologyConflict, UnknownMessage
from chappe.messages.topology import EVENTS, Binding
from chappe.testing import testing


class Push(Command, queue="push.{channel}"):
    channel: Literal["alpine", "ical"]


class Now(Command, inline=True):
    pass


class Bid(Event):
    pass


class Job(Command, exchange="jobs", routing_key="job.{kind}"):
    kind: str


async def push(command: Push) -> None: ...
async def other(command: Push) -> None: ...
async def job(command: Job) -> None: ...
async def note(event: Bid) -> None: ...


def test_every_queue_of_a_template_is_declared_and_served() -> None:
    registry = Registry()
    registry.add_handler(Push, Handler(push), None)
    assert registry.consumed_queues() == ["push.alpine", "push.ical"]
    assert [q.name for q in registry.topology().queues] == ["push.alpine", "push.ical"]


def test_a_message_that_is_only_sent_has_its_queues_declared_but_not_served() -> None:
    registry = Registry()
    registry.add_message(Push)
    assert registry.consumed_queues() == []
    assert [q.name for q in registry.topology().queues] == ["push.alpine", "push.ical"]


def test_a_subscriber_has_a_durable_queue_of_its_own() -> None:
    registry = Registry()
    registry.add_subscriber(Bid, Handler(note), None)
    registry.add_subscriber("bid.*", Handler(note), "audit")
    queues = {q.name: q.bindings for q in registry.topology().queues}
    assert queues == {"app.on.note": (Binding("events", "bid"),), "audit": (Binding("events", "bid.*"),)}
    assert registry.consumed_queues() == ["app.on.note", "audit"]
    assert EVENTS in registry.topology().exchanges


def test_a_temporary_subscriber_is_served_and_not_declared_for_all() -> None:
    registry = Registry()
    registry.add_subscriber(Bid, Handler(note), None, temporary=True)
    registry.add_subscriber("bid.*", Handler(note), "audit")
    assert [queue.name for queue in registry.topology().queues] == ["audit"]
    lasting, temporary = registry.served(registry.consumed_queues())
    assert lasting == ["audit"]
    assert [(queue.name, queue.bindings, queue.type) for queue in temporary] == [("app.on.note", (Binding("events", "bid"),), "bid")]
    with registry.lasting():
        assert registry.served(registry.consumed_queues()) == (["app.on.note", "audit"], [])
        assert [queue.name for queue in registry.topology().queues] == ["app.on.note", "audit"]
    assert registry.served(["app.on.note"])[0] == []


@pytest.mark.parametrize("first", [True, False])
def test_a_name_is_of_a_temporary_subscriber_or_of_a_queue(first: bool) -> None:
    registry = Registry()
    declare = [lambda: registry.add_subscriber(Bid, Handler(note), "x", temporary=True), lambda: registry.add_queue(bind("x"))]
    declare[first]()
    with pytest.raises(DuplicateName, match='"x"'):
        declare[not first]()


def test_two_subscribers_of_one_name_are_refused_naming_both() -> None:
    registry = Registry()
    registry.add_subscriber(Bid, Handler(note), None)
    with pytest.raises(DuplicateName, match=r'queue "app\.on\.note" belongs to both .*note .*and .*note .*name='):
        registry.add_subscriber("bid.*", Handler(note), None)


def test_two_classes_of_one_name_are_refused_naming_both() -> None:
    registry = Registry()
    registry.add_message(Push)

    class Pusher(Command, queue="q", name="push"):
        pass

    with pytest.raises(DuplicateName, match='"push" is the name of both .*Push and .*Pusher'):
        registry.add_message(Pusher)


def test_an_alias_finds_the_renamed_class() -> None:
    class Renamed(Command, queue="q", aliases=("older.name",)):
        pass

    registry = Registry()
    registry.add_message(Renamed)
    assert registry.message("older.name") is registry.message("renamed") is Renamed
    assert registry.commands() == [Renamed]


def test_one_function_cannot_handle_a_command_twice() -> None:
    registry = Registry()
    registry.add_handler(Push, Handler(push), None)
    with pytest.raises(DuplicateName, match=r"push \(.*test_registry.py:\d+\) handles Push twice; write a function of its own name"):
        registry.add_handler(Push, Handler(push), None)


def test_an_unknown_message_is_answered_with_the_nearest_name() -> None:
    registry = Registry()
    registry.add_message(Push)
    with pytest.raises(UnknownMessage, match='no message is called "pusj", did you mean "push"'):
        registry.message("pusj")
    with pytest.raises(UnknownMessage, match="known are: push"):
        registry.message("zzzzzz")


def test_a_handler_of_one_queue_is_preferred_there() -> None:
    registry = Registry()
    registry.add_handler(Push, Handler(push), None)
    registry.add_handler(Push, Handler(other), bind("push.extra"))
    assert [h.short_name for h in registry.handlers_of(Push, "push.extra")] == ["other"]
    assert [h.short_name for h in registry.handlers_of(Push, "push.ical")] == ["push"]


def test_nobody_to_handle_a_message_is_an_error_with_the_queue() -> None:
    with pytest.raises(NoHandler, match='nothing handles Push in queue "push.ical"'):
        Registry().handlers_of(Push, "push.ical")


def test_a_handler_of_an_exchanges_command_must_name_its_queue() -> None:
    with pytest.raises(DefinitionError, match=r'is published to exchange "jobs".*queue=bind\("name", "jobs:job\.\{kind\}"\)'):
        Registry().add_handler(Job, Handler(job), None)


def test_an_inline_command_cannot_be_served_from_a_queue() -> None:
    async def now(command: Now) -> None: ...

    with pytest.raises(DefinitionError, match="is inline and comes through no queue"):
        Registry().add_handler(Now, Handler(now), bind("q"))


def test_one_queue_with_two_bindings_is_a_conflict_naming_both_handlers() -> None:
    registry = Registry()
    registry.add_handler(Job, Handler(job), bind("work", "jobs:job.a"))

    async def elsewhere(command: Job) -> None: ...

    with pytest.raises(TopologyConflict, match=r'"jobs:job\.a" by .*job .*"jobs:job\.b" by .*elsewhere'):
        registry.add_handler(Job, Handler(elsewhere), bind("work", "jobs:job.b"))


def test_two_kinds_of_one_exchange_are_a_conflict() -> None:
    class One(Command, exchange=Exchange("x", "topic"), routing_key="a"):
        pass

    class Two(Command, exchange=Exchange("x", "fanout"), routing_key="a"):
        pass

    registry = Registry()
    registry.add_message(One)
    registry.add_message(Two)
    with pytest.raises(TopologyConflict, match='exchange "x"'):
        registry.topology()


def test_check_names_the_handler_and_what_nothing_provides() -> None:
    class Tool:
        pass

    async def needy(command: Push, tool: Tool) -> None: ...

    app = App("app")
    app.handles(Push)(needy)
    with pytest.raises(DefinitionError, match=r"needy .*asks for tool: .*Tool, which nothing provides; .*@app\.provides"):
        app.registry.check(lambda handler: handler.unmet(app.providers))


def test_a_queue_in_which_only_one_message_is_handled_names_those_that_come_without_a_type() -> None:
    registry = Registry()
    registry.add_handler(Push, Handler(push), None)
    registry.add_handler(Job, Handler(job), bind("jobs.x", "jobs:job.x"))
    registry.add_subscriber(Bid, Handler(note), "bids")
    registry.add_subscriber("other.*", Handler(note), "others")
    assert {q.name: q.type for q in registry.topology().queues} == {
        "bids": "bid", "jobs.x": "job", "others": "", "push.alpine": "push", "push.ical": "push",
    }  # fmt: skip


def test_a_queue_keeps_the_type_that_it_was_given_and_has_none_where_several_are_handled() -> None:
    registry = Registry()
    registry.add_handler(Job, Handler(job), bind("mixed", "jobs:#"))
    registry.add_handler(Push, Handler(push), bind("mixed", "jobs:#"))
    registry.add_handler(Job, Handler(job), bind("given", "jobs:job.y", type="job.of.others"))
    assert {q.name: q.type for q in registry.topology().queues if q.name in ("mixed", "given")} == {"mixed": "", "given": "job.of.others"}


def either(message: Push | Job) -> None: ...


def anything(message: Any) -> None: ...


def of_base(message: Event) -> None: ...


def of_push(message: Push) -> None: ...


def of_job(message: Annotated[Job, "note"]) -> None: ...


def of_text(message: str) -> None: ...


@pytest.mark.parametrize(
    ("what", "function", "says"),
    [
        (Push, of_job, r"of_job \(.*test_registry.py:\d+\) handles Push, but its first parameter is a Job"),
        (Push, of_text, "handles Push, but its first parameter is a str"),
        (Bid, of_push, r"of_push \(.*test_registry.py:\d+\) subscribes to Bid, but its first parameter is a Push"),
        (Bid, either, r"subscribes to Bid, but its first parameter is a Push | Job"),
        ("bid.*", of_push, r"subscribes to Event, but its first parameter is a Push"),
    ],
)
def test_a_function_that_is_annotated_for_another_class_is_refused(what: Any, function: Callable[..., Any], says: str) -> None:
    registry = Registry()
    with pytest.raises(DefinitionError, match=says):
        if what is Push:
            registry.add_handler(what, Handler(function), None)
        else:
            registry.add_subscriber(what, Handler(function), None)


def test_a_function_that_is_annotated_for_several_classes_or_any_is_taken_for_each() -> None:
    registry = Registry()
    registry.add_handler(Push, Handler(either), None)
    registry.add_handler(Push, Handler(anything), None)
    registry.add_subscriber(Bid, Handler(of_base), None)
    registry.add_subscriber("bid.*", Handler(note), "audit")
    assert [h.short_name for h in registry.handlers_of(Push, None)] == ["either", "anything"]


def test_a_subscriber_without_a_name_of_its_own_must_be_given_one() -> None:
    registry = Registry()
    with pytest.raises(DefinitionError, match=r'test_registry.py:\d+\): a subscriber without a name has no queue; give it name="..."'):
        registry.add_subscriber(Bid, Handler(lambda event: None), None)
    registry.add_subscriber(Bid, Handler(lambda event: None), "named")
    registry.add_subscriber(Bid, Handler(functools.partial(note)), None)
    assert any(queue.endswith("on.note") for queue in registry.subscribers)


class LotMoved(Event, exchange=Exchange("lots"), routing_key="lot.{house}.moved"):
    house: str


class LotSold(Event, exchange=Exchange("lots"), routing_key="lot.{house}"):
    house: str


class DoorOpened(Event, exchange=Exchange("doors", "direct"), routing_key="front"):
    pass


class RadioPlayed(Event, exchange=Exchange("radio", "fanout"), routing_key="station.{house}"):
    house: str


def test_a_subscriber_of_a_class_hears_all_of_it_whatever_its_routing_key_is_made_of_and_nothing_else() -> None:
    app = App("houses")
    heard: list[str] = []

    @app.on(LotMoved)
    def moved(event: LotMoved) -> None:
        heard.append(f"moved {event.house}")

    @app.on(LotSold)
    def sold(event: LotSold) -> None:
        heard.append(f"sold {event.house}")

    @app.on(DoorOpened)
    def opened(event: DoorOpened) -> None:
        heard.append("opened")

    @app.on(RadioPlayed)
    def played(event: RadioPlayed) -> None:
        heard.append(f"played {event.house}")

    with testing(app) as t:
        app.send([LotMoved(house="a"), LotMoved(house="a.b"), LotSold(house="c"), LotSold(house=""), DoorOpened(), RadioPlayed(house="d")])
        t.drain()
        assert t.dead == []
    assert sorted(heard) == ["moved a", "moved a.b", "opened", "played d", "sold ", "sold c"]


def test_a_direct_exchange_cannot_be_bound_by_a_key_that_depends_on_fields() -> None:
    class Rung(Event, exchange=Exchange("bells", "direct"), routing_key="bell.{house}"):
        house: str

    def ring(event: Rung) -> None: ...

    with pytest.raises(DefinitionError, match="make the exchange a topic"):
        App("houses").on(Rung)(ring)


def test_a_queue_is_fair_if_any_message_that_comes_through_it_has_a_tenant() -> None:
    class Plain(Command, queue="shared"):
        pass

    class Fair(Command, queue="shared", fair="{user}"):
        user: str

    class Other(Command, queue="other"):
        pass

    registry = Registry()
    for message in (Plain, Other, Fair):
        registry.add_message(message)
    assert {queue.name: queue.fair for queue in registry.topology().queues} == {"shared": True, "other": False}
