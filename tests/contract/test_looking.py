"""Single messages are shown where they are, without being lent. They are tracked, for plain ones wait unseen in RabbitMQ."""

from __future__ import annotations

from typing import Any

import pytest

from chappe.engines.contract.broker import Dead, Retry
from chappe.engines.contract.inspection import STATES, MessageStatus
from chappe.engines.finding import explain
from chappe.errors import NotFound
from chappe.messages.envelope import Publication

from .engine import EngineUnderTest, Peer
from .scenes import declare, gather, name, one, send, settle, to


@pytest.fixture(autouse=True)
async def queue(peer: Peer) -> None:
    await declare(peer, "q", "other")


def seen(called: str, **more: Any) -> Publication:
    return to("q", called, tracked=True, **more)


async def looked(peer: Peer, state: str, **options: Any) -> list[MessageStatus]:
    """Return all that is shown, page by page."""
    found: list[MessageStatus] = []
    cursor: str | None = ""
    while cursor is not None:
        page = await peer.store.look("q", state, cursor=cursor, **options)
        assert len(page.messages) <= options.get("limit", 20)
        found += page.messages
        cursor = page.cursor
    return found


def called(found: list[MessageStatus]) -> list[str]:
    return [message.envelope.body.decode() for message in found]


async def names(peer: Peer, state: str, **options: Any) -> list[str]:
    return called(await looked(peer, state, **options))


async def test_what_waits_is_shown_in_the_order_in_which_it_is_served_and_stays(peer: Peer) -> None:
    await send(peer, *(seen(f"plain {n}") for n in range(5)), seen("first", priority=3), seen("last", priority=-1), to("other", "not this"))
    wanted = ["first", *(f"plain {n}" for n in range(5)), "last"]
    for limit in (1, 2, 20):
        assert await names(peer, "ready", limit=limit) == wanted
    (first, *_) = await looked(peer, "ready")
    assert (first.queue, first.state, first.priority, first.attempt, first.deaths) == ("q", "ready", 3, 1, 0)
    assert (await peer.broker.depth("q")).ready == 7


async def test_a_message_is_shown_in_its_state_from_sent_to_dead(engine: EngineUnderTest, peer: Peer) -> None:
    await send(peer, seen("m"), seen("later", delay=3600.0))
    (delayed,) = await looked(peer, "delayed")
    assert called([delayed]) == ["later"]
    assert delayed.due == pytest.approx(engine.now() + 3600.0, abs=100.0)
    async with peer.broker.consume(["q"], prefetch=1) as consumer:
        delivery = await one(consumer)
        (running,) = await looked(peer, "running")
        assert called([running]) == ["m"]
        assert running.holder
        assert await names(peer, "ready") == []
        await settle(consumer, Retry(delivery.tag, 0.0, error="it was too early"))
        again = await one(consumer)
        (running,) = await looked(peer, "running")
        assert (running.attempt, running.error) == (2, "it was too early")
        await settle(consumer, Dead(again.tag, "rejected", "it is too late"))
    (dead,) = await looked(peer, "dead")
    assert (called([dead]), dead.attempt, dead.reason, dead.error) == (["m"], 2, "rejected", "it is too late")
    assert dead.number == (await peer.store.letters("q"))[0].number
    assert dead.died_at == pytest.approx(engine.now(), abs=100.0)


async def test_only_those_are_shown_that_contain_all_that_is_looked_for(peer: Peer) -> None:
    await send(peer, *(seen(f"{colour} {thing}") for colour in ("red", "blue") for thing in ("house", "boat")))
    assert await names(peer, "ready", containing=[b"red"]) == ["red house", "red boat"]
    assert await names(peer, "ready", containing=[b"red", b"boat"], limit=1) == ["red boat"]
    (blue,) = await looked(peer, "ready", containing=[b"blue", b"house"])
    assert called(await looked(peer, "ready", containing=[blue.envelope.id.encode()])) == ["blue house"]
    assert await names(peer, "ready", containing=[b"green"]) == []


async def test_who_waits_for_a_key_names_the_message_that_has_it(peer: Peer) -> None:
    await send(peer, seen("first", key="k"), seen("second", key="k"), seen("third", key="k"), seen("free", key="another"))
    async with peer.broker.consume(["q"], prefetch=1) as consumer:
        first = await one(consumer)
        assert name(first) == "first"
        waiting = {message.envelope.body.decode(): message.held_by for message in await looked(peer, "ready")}
        assert waiting == {"second": first.envelope.id, "third": first.envelope.id, "free": None}
        assert await names(peer, "ready", limit=1) == await names(peer, "ready")
        await settle(consumer, Retry(first.tag, 3600.0))
        held = {message.envelope.body.decode(): message.held_by for message in await looked(peer, "ready")}
        assert held["second"] == first.envelope.id, "it keeps its key while it waits for its retry"


async def test_a_message_that_is_lent_while_it_is_looked_for_is_found(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    await send(peer, seen("m"))
    (message,) = await looked(peer, "ready")
    look, lent = peer.store.look, list[object]()
    async with peer.broker.consume(["q"], prefetch=1) as consumer:

        async def look_when_it_is_lent(*asked: Any, **more: Any) -> Any:
            lent.extend([] if lent else [await one(consumer)])
            return await look(*asked, **more)

        monkeypatch.setattr(peer.store, "look", look_when_it_is_lent)
        assert called(await peer.store.find(message.envelope.id)) == ["m"]


async def test_a_message_is_found_by_its_id_in_each_queue_and_state(peer: Peer) -> None:
    await send(peer, seen("m"), seen("another"), seen("later", delay=3600.0))
    (later,) = await looked(peer, "delayed")
    ids = {message.envelope.body.decode(): message.envelope.id for message in await looked(peer, "ready")}

    async def state() -> list[tuple[str, str]]:
        found = await peer.store.find(ids["m"])
        assert called(found) == ["m"] * len(found)
        return [(message.queue, message.state) for message in found]

    assert await state() == [("q", "ready")]
    assert [message.state for message in await peer.store.find(later.envelope.id)] == ["delayed"]
    assert await peer.store.find(ids["m"], queue="other") == await peer.store.find("nothing") == []
    assert called(await peer.store.find(ids["m"], queue="q")) == ["m"]
    async with peer.broker.consume(["q"], prefetch=1) as consumer:
        delivery = await one(consumer)
        assert await state() == [("q", "running")]
        await settle(consumer, Dead(delivery.tag, "rejected", "no"))
    assert await state() == [("q", "dead")]


async def test_it_is_said_how_many_are_served_before_a_message(peer: Peer) -> None:
    await send(peer, *(seen(f"{n}") for n in range(6)), seen("first", priority=9))
    found = await looked(peer, "ready")
    assert [await peer.store.ahead("q", message.place) for message in found] == list(range(7))
    async with peer.broker.consume(["q"], prefetch=2) as consumer:
        await gather(consumer, 2)
        assert await peer.store.ahead("q", found[-1].place) == 4, "what runs is not before it any more"


async def test_what_waits_for_a_budget_names_it_and_when_it_opens(engine: EngineUnderTest, peer: Peer) -> None:
    await send(peer, *(seen(f"{n}") for n in range(4)))
    async with peer.broker.consume(["q"], prefetch=4) as consumer:
        for delivery in await gather(consumer, 4):
            start = await peer.store.take("b", 1000.0, 1, tag=delivery.tag)
            if not start.granted:
                await settle(consumer, Retry(delivery.tag, start.wait, counted=False, budget="b"))
        found = await looked(peer, "delayed")
        assert sorted(called(found)) == ["1", "2", "3"]
        assert {(message.budget, message.pace) for message in found} == {("b", 1000.0)}
        assert [message.due for message in found] == [pytest.approx(engine.now() + 1000.0, abs=100.0)] * 3
        assert sorted([await peer.store.ahead("q", message.place) for message in found]) == [0, 1, 2]


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("cursor", ["x", "[]", "{}", '["a", "b"]', "[1e999, 2]", f"[0, {2**80}]", "[0]", "[[0], 1]", "[9, 9, 9, 9]"])
async def test_a_cursor_that_is_none_is_refused_by_a_sentence(peer: Peer, state: str, cursor: str) -> None:
    try:
        await peer.store.look("q", state, cursor=cursor)
    except NotFound as error:
        assert "cursor" in str(error)


async def test_what_is_not_there_is_said(peer: Peer) -> None:
    with pytest.raises(NotFound, match="nowhere"):
        await peer.store.look("nowhere", "ready")
    with pytest.raises(NotFound, match="running, ready, delayed or dead"):
        await peer.store.look("q", "zombie")
    for place in ("x", "", "[]"):
        with pytest.raises(NotFound, match="place"):
            await peer.store.ahead("q", place)


async def causes(peer: Peer, engine: EngineUnderTest, called_: str) -> list[str]:
    """Return the reasons for which a message does not run."""
    (found,) = [one for state in STATES for one in await looked(peer, state) if one.envelope.body.decode() == called_]
    (same,) = await peer.store.find(found.envelope.id)
    (told,) = await explain(peer.store, [same], engine.now(), lambda _, name: name == "test.message")
    return [reason.reason for reason in told]


async def test_each_cause_for_which_a_message_does_not_run_is_named(engine: EngineUnderTest, peer: Peer) -> None:
    await send(peer, seen("first", key="k"), seen("second", key="k"), seen("later", delay=3600.0))
    assert await causes(peer, engine, "first") == ["no_worker"]
    assert await causes(peer, engine, "later") == ["delayed", "no_worker"]
    async with peer.broker.consume(["q"], prefetch=1) as consumer:
        first = await one(consumer)
        await peer.store.tell({"queues": ["q"]})
        assert await causes(peer, engine, "first") == ["running"]
        assert await causes(peer, engine, "second") == ["key"]
        await peer.store.desire("queue:q", "paused", "me")
        assert await causes(peer, engine, "second") == ["key", "paused"]
        await peer.store.desire("queue:q", None, "me")
        start = [await peer.store.take("b", 1000.0, 1, tag=first.tag) for _ in range(2)][1]
        await settle(consumer, Retry(first.tag, start.wait, counted=False, budget="b"))
        assert await causes(peer, engine, "first") == ["budget"]
    await send(peer, *(seen(f"{n}") for n in range(3)))
    assert await causes(peer, engine, "2") == ["behind"], "this peer has said that it serves the queue"


async def test_who_waits_for_its_tenants_share_is_told_how_many_of_its_own_are_before_it(engine: EngineUnderTest, peer: Peer) -> None:
    await declare(peer, "q", fair=True)
    await peer.store.tell({"queues": ["q"]})
    await send(peer, *(seen(f"a{n}", tenant="a") for n in range(5)), *(seen(f"b{n}", tenant="b") for n in range(2)))
    found = {message.envelope.body.decode(): message for message in await looked(peer, "ready")}
    assert {name: message.tenant for name, message in found.items()} == {name: name[0] for name in found}
    assert [await peer.store.ahead("q", found[one].place) for one in ("a0", "a4", "b1")] == [0, 4, 1]
    assert await causes(peer, engine, "b1") == ["share"]
