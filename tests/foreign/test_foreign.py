"""Programs of others on RabbitMQ: what they publish reaches our handlers, what we send reaches them, with their own declarations."""

from __future__ import annotations

import datetime as dt
import json
import time
from typing import Any

import pytest

from chappe import App, Command
from chappe.engines.postgres.broker import PostgresBroker
from chappe.engines.rabbitmq.broker import RabbitBroker
from chappe.engines.rabbitmq.names import RELAY
from chappe.errors import NotFound, TopologyConflict
from chappe.messages.capabilities import Exchange
from chappe.messages.topology import Queue, bind

from ..servers.rabbitmq import RabbitNode
from ..waiting import until
from .clients import Client
from .conftest import Station, chosen, declarations, exchange, message, queue

WRITTEN = 'Zürich – 東京 – Αθήνα – 😀 «"quoted"» {client} {what}'
AT = dt.datetime(2028, 2, 29, 23, 59, 59, 123000, dt.UTC)  # in Tokyo and Zürich it is March already
DAY = dt.date(2028, 2, 29)


def letter(text: str, **others: Any) -> dict[str, Any]:
    """Return the fields of a letter as a foreign program is told them, which writes dates in its own way."""
    return {"text": text, "at": round(AT.timestamp() * 1000), "day": [DAY.year, DAY.month, DAY.day], **others}


def text_for(client: Client, what: str) -> str:
    return WRITTEN.format(client=client.name, what=what)


def intact(line: dict[str, Any]) -> bool:
    return dt.datetime.fromisoformat(line["at"]) == AT and line["day"] == DAY.isoformat()


# --- what they publish


def test_what_a_program_publishes_without_a_type_comes_typed_and_intact(station: Station, client: Client) -> None:
    told: dict[str, Any] = {"headers": {"department": "Zürich"}}
    if client.tells:
        told |= {"timestamp": 1_700_000_000, "correlation_id": "東京-1"}
    ways = (
        ("topic", "note.urgent.東京", "note", "desk"),  # durable
        ("direct", "order", "order", "desk"),  # durable, with an argument
        ("fanout", "", "shout", "ears"),  # not durable
    )
    publish = [message(f"{client.name}.{way}", key, letter(text_for(client, way)), **told) for way, key, *_ in ways]
    station.run(client, **declarations(client), publish=publish)
    for way, _, type_, queue_ in ways:
        (line,) = station.came(text_for(client, way))
        assert (line["type"], line["queue"], line["attempt"]) == (f"{client.name}.{type_}", f"{client.name}.{queue_}", 1)
        assert intact(line), line
        assert line["headers"] == {"department": "Zürich"}
        if client.tells:
            assert (line["sent_at"], line["correlation_id"]) == (1_700_000_000, "東京-1")


# --- what they consume


def test_a_program_consumes_an_event_through_a_queue_of_its_own(station: Station, client: Client) -> None:
    name = f"{client.name}.news"
    own = queue(name, ("events", f"{client.name}.*"), durable=False, auto_delete=True, **({"x_max_length": 10} if client.declares else {}))
    program = station.start(client, queues=[own], consume=(name, 1))
    station.consumes(program, name)
    text = text_for(client, "happened")
    receipt = station.app.publish(station.offices[client.name].happened(text=text, at=AT, day=DAY))
    compare(client, program.communicate(timeout=200), receipt.id, letter(text), f"{client.name}.happened", "events")


def test_a_program_consumes_a_command_from_a_non_durable_exchange_that_both_declare(station: Station, client: Client) -> None:
    name, told = f"{client.name}.told.here", f"{client.name}.told"
    own = {"exchanges": [exchange(told, "fanout", durable=False)]} if client.declares else {}
    program = station.start(client, **own, queues=[queue(name, (told, "any"), durable=False, auto_delete=True)], consume=(name, 1))
    station.consumes(program, name)
    text = text_for(client, "told")
    receipt = station.app.send(station.offices[client.name].told(text=text, at=AT, day=DAY))
    compare(client, program.communicate(timeout=200), receipt.id, letter(text, fails=0), f"{client.name}.told", told)


def compare(client: Client, ended: tuple[str, str], identity: str, sent: dict[str, Any], type_: str, exchange: str) -> None:
    """Compare what a program printed of one message with what was sent."""
    printed, said = ended
    assert printed, said
    got = json.loads(printed)
    assert got["letter"] == sent, "as the program reads it"
    assert json.loads(got["body"]) == {**sent, "at": "2028-02-29T23:59:59.123000Z", "day": "2028-02-29"}
    assert sent["text"] in got["body"].replace('\\"', '"'), "text is written as text, not as escapes"
    if client.tells:
        assert (got["type"], got["message_id"], got["content_type"], got["exchange"]) == (type_, identity, "application/json", exchange)
        assert abs(got["timestamp"] - time.time()) < 3600


# --- queues of theirs


def test_a_queue_of_theirs_is_consumed_and_fed_and_stays_as_it_is(station: Station, client: Client) -> None:
    box = f"{client.name}.box"
    theirs, ours = text_for(client, "in their queue"), text_for(client, "in their queue by us")
    receipt = station.app.send(station.offices[client.name].parcel(text=ours, at=AT, day=DAY))
    station.run(client, **declarations(client), publish=[message("", box, letter(theirs))])  # refused if ours had changed it
    for line in (*station.came(ours), *station.came(theirs)):
        assert (line["type"], line["queue"], line["attempt"]) == (f"{client.name}.parcel", box, 1)
        assert intact(line), line
    assert station.lines(ours)[0]["id"] == receipt.id


def test_a_queue_that_only_they_consume_is_fed_by_who_knows_the_command(station: Station, with_pika: Client) -> None:
    name = "theirs.alone"

    class Feed(Command, name="feed", queue=name):
        text: str
        at: dt.datetime
        day: dt.date

    program = station.start(with_pika, queues=[queue(name, durable=False, x_max_length=10)], consume=(name, 1))
    station.consumes(program, name)
    app = App("feeds", settings=station.settings)
    app.knows(Feed, queue=bind(name, passive=True))  # pyright: ignore[reportCallIssue] - proposed
    try:
        receipt = app.send(Feed(text="für euch", at=AT, day=DAY))
    finally:
        app.close()
    compare(with_pika, program.communicate(timeout=200), receipt.id, letter("für euch"), "feed", "")


def test_messages_without_ids_are_tried_again_each_on_its_own_account_in_a_queue_of_theirs(station: Station, with_pika: Client) -> None:
    texts = ("fails twice", "fails twice too")
    station.run(with_pika, publish=[message("", "pika.box", letter(text, fails=3)) for text in texts])
    for text in texts:
        station.came(text, 3)
    until(lambda: station.left("pika.box") == 0, "the queue to be empty")
    assert not station.dead("pika.box")
    for text in texts:
        lines = station.lines(text)
        assert [line["attempt"] for line in lines] == [1, 2, 3]
        assert len({line["id"] for line in lines}) == 1
        assert all(intact(line) for line in lines)
    assert station.lines(texts[0])[0]["id"] != station.lines(texts[1])[0]["id"]


def test_equal_messages_without_ids_are_all_handled(station: Station, with_pika: Client) -> None:
    publish = [message("pika.fanout", "", letter("three of a kind"))] * 3
    station.run(with_pika, **declarations(with_pika), publish=publish)
    assert [line["attempt"] for line in station.came("three of a kind", 3)] == [1, 1, 1]


def test_what_cannot_be_decoded_is_a_dead_letter_and_keeps_nobody_waiting(station: Station, with_pika: Client) -> None:
    bodies = ("kein JSON – 東京", '{"text": "no date", "at": "gestern", "day": "2028-02-29"}', "[1, 2")
    publish = [message("pika.direct", "order", body) for body in bodies]
    station.run(with_pika, publish=[*publish, message("pika.direct", "order", letter("behind the bad ones"))])
    station.came("behind the bad ones")
    until(lambda: station.left("pika.desk") == 0, "the queue to be empty")
    dead = station.dead("pika.desk")
    assert sorted(letter.envelope.body.decode() for letter in dead) == sorted(bodies)
    assert [(letter.envelope.type, letter.reason) for letter in dead] == [("pika.order", "undecodable")] * 3
    assert ["$.at" in (letter.error or "") for letter in dead].count(True) == 1, dead


# --- conflicts


def ignore(command: Command) -> None:
    """Handle what nobody sends."""


def asking(exchange: Exchange | None, queue: Queue) -> App:
    """Return an application that handles one command of this exchange, or of the queue itself."""
    app = App("asks")
    if exchange is None:

        class InQueue(Command, name="ask", queue=queue.name): ...

        app.handles(InQueue, queue=queue)(ignore)
    else:

        class InExchange(Command, name="ask", exchange=exchange, routing_key="ask"): ...

        app.handles(InExchange, queue=queue)(ignore)
    return app


async def declared(station: Station, app: App) -> None:
    """Declare everything of an application, without waiting until RabbitMQ has written it down."""
    assert station.settings.store is not None
    broker = RabbitBroker(station.settings.broker, PostgresBroker(station.settings.store, relay=RELAY), settling=0.0)
    try:
        await broker.declare(app.registry.topology())
    finally:
        await broker.close()


@pytest.mark.parametrize(
    ("theirs", "ours", "argument", "is_", "wanted"),
    [
        (exchange("x", "topic", durable=False), Exchange("x", "topic"), "durable", "false", "true"),
        (exchange("x", "topic"), Exchange("x", "topic", durable=False), "durable", "true", "false"),
        (exchange("x", "direct"), Exchange("x", "topic"), "type", "direct", "topic"),
        (exchange("x", "topic", auto_delete=True), Exchange("x", "topic"), "auto_delete", "true", "false"),
        (exchange("x", "topic", alternate_exchange="amq.fanout"), Exchange("x", "topic"), "alternate-exchange", "amq.fanout", "none"),
    ],
    ids=["not-durable", "durable", "kind", "auto-delete", "argument"],
)
async def test_another_exchange_of_the_name_is_a_conflict_that_names_both_sides_and_the_remedies(
    station: Station, with_pika: Client, theirs: dict[str, Any], ours: Exchange, argument: str, is_: str, wanted: str
) -> None:
    name = f"conflict.{argument}.{is_}"
    station.run(with_pika, exchanges=[{**theirs, "name": name}], queues=[queue(f"{name}.held", (name, "#"))])
    mine = Exchange(name, ours.kind, durable=ours.durable)
    served = bind(f"{name}.served", f"{name}:ask", origin="the shop")
    with pytest.raises(TopologyConflict) as refused:
        await declared(station, asking(mine, served))
    explained(str(refused.value), f'exchange "{name}"', argument, is_, wanted)
    await declared(station, asking(Exchange(name, theirs["kind"], passive=True), served))
    as_it_is = Exchange(name, theirs["kind"], durable=theirs["durable"], auto_delete=theirs["auto_delete"], arguments=theirs["arguments"])
    await declared(station, asking(as_it_is, served))


@pytest.mark.parametrize(
    ("theirs", "ours", "argument", "is_", "wanted"),
    [
        (queue("q", x_max_length=10), bind("q", kind="classic", arguments={"x-max-length": 20}), "x-max-length", "10", "20"),
        (queue("q", x_message_ttl=60000), bind("q", kind="classic"), "x-message-ttl", "60000", "none"),
        (queue("q", durable=False), bind("q", kind="classic"), "durable", "false", "true"),
    ],
    ids=["other-value", "argument", "not-durable"],
)
async def test_another_queue_of_the_name_is_a_conflict_that_names_both_sides_and_the_remedies(
    station: Station, with_pika: Client, theirs: dict[str, Any], ours: Queue, argument: str, is_: str, wanted: str
) -> None:
    name = f"conflict.{argument}.{is_}"
    station.run(with_pika, queues=[{**theirs, "name": name}])
    with pytest.raises(TopologyConflict) as refused:
        mine = bind(name, kind=ours.kind, arguments=ours.arguments, origin="the shop")
        await declared(station, asking(None, mine))
    explained(str(refused.value), f'queue "{name}"', argument, is_, wanted, "the shop")
    await declared(station, asking(None, bind(name, passive=True)))
    as_it_is = bind(name, kind="classic", durable=theirs["durable"], arguments=theirs["arguments"])
    await declared(station, asking(None, as_it_is))


async def test_a_classic_queue_in_the_place_of_a_quorum_queue_is_a_conflict_that_says_so(station: Station, with_pika: Client) -> None:
    station.run(with_pika, queues=[queue("conflict.kind")])
    with pytest.raises(TopologyConflict) as refused:
        await declared(station, asking(None, bind("conflict.kind", origin="the shop")))
    said = str(refused.value)
    assert 'queue "conflict.kind" is in RabbitMQ with' in said and "the shop" in said and "passive=True" in said, said
    assert "quorum" in said, said  # RabbitMQ names x-overflow first, which nobody wrote who wrote bind("conflict.kind")
    await declared(station, asking(None, bind("conflict.kind", kind="classic")))


def explained(said: str, what: str, argument: str, is_: str, wanted: str, who: str = "this application") -> None:
    """Compare a message with what it must tell."""
    assert f"{what} is in RabbitMQ with {argument} {is_} and is declared by {who} with {argument} {wanted}" in said, said
    assert "passive=True" in said and "declare it as it is" in said and "delete it" in said, said


async def test_an_exchange_of_theirs_that_does_not_exist_is_not_found(station: Station) -> None:
    with pytest.raises(NotFound, match=r'exchange "nobodys" .*passive=True.* start that program first'):
        await declared(station, asking(Exchange("nobodys", "fanout", passive=True), bind("asks.nobodys", "nobodys:")))


async def test_a_queue_of_theirs_that_does_not_exist_is_not_found(station: Station) -> None:
    with pytest.raises(NotFound, match=r'queue "nobodys\.queue" is declared by the shop .*passive=True.* start that program first'):
        await declared(station, asking(None, bind("nobodys.queue", passive=True, origin="the shop")))


# --- what comes and goes: last, because queues go with it


def test_a_queue_of_theirs_that_is_gone_keeps_no_other_waiting_and_is_served_when_it_is_back(station: Station, with_pika: Client) -> None:
    station.delete("pika.box")
    station.run(with_pika, publish=[message("pika.direct", "order", letter("while it is gone"))])
    station.came("while it is gone")
    station.run(with_pika, **declarations(with_pika), publish=[message("", "pika.box", letter("it is back"))])
    station.came("it is back")


@pytest.mark.proof
def test_after_rabbitmq_was_killed_what_is_published_to_a_non_durable_exchange_of_theirs_comes_again(
    own_station: Station, rabbit_node: RabbitNode
) -> None:
    station, with_pika = own_station, chosen(own_station, "pika")
    station.rest()
    station.run(with_pika, **declarations(with_pika))
    station.work("--queues", "pika.ears")
    rabbit_node.kill()
    rabbit_node.start()

    def heard() -> bool:  # what comes before we are bound again is for nobody
        station.run(with_pika, **declarations(with_pika), publish=[message("pika.fanout", "", letter("after the crash"))])
        return bool(station.lines("after the crash"))

    until(heard, station.errors()[-2000:], 60)
    assert intact(station.lines("after the crash")[0])
