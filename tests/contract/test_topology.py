"""Which queues a publication reaches, and which declarations may stand beside each other."""

from __future__ import annotations

import pytest

from chappe.errors import NotFound, TopologyConflict, Unroutable
from chappe.messages.capabilities import Exchange
from chappe.messages.topology import Binding, Queue, Topology, bind

from .engine import EngineUnderTest, Peer
from .scenes import declare, drain, event, send, to


async def reached(peer: Peer, *queues: str) -> list[str]:
    return [q for q in queues if (await peer.broker.depth(q)).ready]


async def test_the_default_exchange_routes_by_the_name_of_the_queue(engine: EngineUnderTest, peer: Peer) -> None:
    await declare(peer, "a", "b")
    await send(peer, to("a", "x"))
    assert await reached(peer, "a", "b") == ["a"]
    assert await drain(engine, peer, "a") == ["x"]


async def test_a_direct_exchange_compares_the_whole_key(peer: Peer) -> None:
    await peer.broker.declare(
        Topology((Exchange("e", "direct"),), (bind("a", "e:x.y"), bind("star", "e:x.*"), bind("hash", "e:#"), bind("upper", "e:X.y")))
    )
    await send(peer, event("e", "x.y"))
    assert await reached(peer, "a", "star", "hash", "upper") == ["a"]
    with pytest.raises(Unroutable):
        await peer.broker.publish([event("e", "x")])


async def test_a_direct_exchange_reaches_every_queue_of_a_key(peer: Peer) -> None:
    await peer.broker.declare(Topology((Exchange("e", "direct"),), (bind("a", "e:x"), bind("b", "e:x", "e:y"), bind("c", "e:y"))))
    await send(peer, event("e", "x"))
    assert await reached(peer, "a", "b", "c") == ["a", "b"]


async def test_a_fanout_exchange_reaches_every_queue_whatever_the_key(peer: Peer) -> None:
    await peer.broker.declare(
        Topology((Exchange("e", "fanout"), Exchange("f", "fanout")), (bind("a", "e:x"), bind("b", "e:"), bind("c", "f:")))
    )
    await send(peer, event("e", "anything.at.all"))
    assert await reached(peer, "a", "b", "c") == ["a", "b"]


@pytest.mark.parametrize(
    ("pattern", "key", "fits"),
    [
        ("a.b", "a.b", True), ("a.b", "a.B", False), ("a.b", "a", False), ("a.b", "a.b.c", False), ("a", "ab", False),
        ("*", "a", True), ("*", "a.b", False), ("a.*", "a.b", True), ("a.*", "a", False), ("a.*", "a.b.c", False),
        ("*.b", "a.b", True), ("*.b", "b", False), ("*.*", "a.b", True), ("*.*", "a", False), ("a.*.c", "a.b.c", True),
        ("a.*.c", "a.c", False), ("a.*.c", "a..c", True), ("a*", "ab", False), ("a.b*", "a.bc", False),
        ("#", "a", True), ("#", "a.b.c", True), ("#", "", True), ("*", "", False), ("a.#", "a", True), ("a.#", "a.b.c", True),
        ("a.#", "b.a", False),
        ("a.#", "ab", False), ("#.c", "c", True), ("#.c", "a.b.c", True), ("#.c", "a.c.b", False), ("a.#.c", "a.c", True),
        ("a.#.c", "a.b.b.c", True), ("a.#.c", "a.c.b", False), ("#.b.#", "a.b.c", True), ("#.b.#", "b", True), ("#.b.#", "a.c", False),
        ("*.#", "a", True), ("*.#", "", False), ("#.*", "a.b", True), ("#.*", "", False), ("#.#", "", True), ("#.#", "a", True),
        ("#.*.#", "a", True), ("#.a.#.a", "a", False), ("#.a.#.a", "a.a", True),
        ("#.a.*", "a.a.b", True), ("a.#.b.*", "a.b.b.b", True),
        ("", "a", False), ("", "", True),
    ],
)  # fmt: skip
async def test_a_topic_exchange_knows_its_wildcards(peer: Peer, pattern: str, key: str, fits: bool) -> None:
    queues = (Queue("tested", (Binding("e", pattern),)), Queue("control", (Binding("control", ""),)))
    await peer.broker.declare(Topology((Exchange("e", "topic"), Exchange("control", "fanout")), queues))
    if fits:
        await send(peer, event("e", key))
        assert (await peer.broker.depth("tested")).ready == 1
    else:
        with pytest.raises(Unroutable):
            await peer.broker.publish([event("e", key)])
        assert (await peer.broker.depth("tested")).ready == 0


async def test_a_queue_with_two_fitting_bindings_gets_one_copy(peer: Peer) -> None:
    await peer.broker.declare(Topology((Exchange("e"),), (bind("a", "e:x.*", "e:#", "e:x.y"),)))
    await send(peer, event("e", "x.y"))
    assert (await peer.broker.depth("a")).ready == 1


async def test_a_queue_may_be_bound_to_several_exchanges(engine: EngineUnderTest, peer: Peer) -> None:
    await peer.broker.declare(Topology((Exchange("e"), Exchange("f", "fanout")), (bind("a", "e:x", "f:"),)))
    await send(peer, event("e", "x", "1"), event("f", "y", "2"))
    assert await drain(engine, peer, "a") == ["1", "2"]


async def test_each_queue_settles_its_own_copy(engine: EngineUnderTest, peer: Peer) -> None:
    await peer.broker.declare(Topology((Exchange("e", "fanout"),), (bind("a", "e:"), bind("b", "e:"))))
    await send(peer, event("e", "", "x"))
    assert await drain(engine, peer, "a") == ["x"]
    assert await reached(peer, "a", "b") == ["b"]
    assert await drain(engine, peer, "b") == ["x"]


async def test_a_declaration_may_be_repeated_and_changes_nothing(engine: EngineUnderTest, peer: Peer) -> None:
    topology = Topology((Exchange("e", archive=60.0),), (bind("a", "e:x", origin="one"), bind("b")))
    await peer.broker.declare(topology)
    await send(peer, event("e", "x", "1"))
    await peer.broker.declare(topology)
    other = await engine.connect()
    await other.broker.declare(topology)
    await send(other, event("e", "x", "2"))
    assert await drain(engine, peer, "a") == ["1", "2"]


async def test_the_order_of_bindings_and_the_origin_are_no_conflict(peer: Peer) -> None:
    exchanges = (Exchange("e"),)
    await peer.broker.declare(Topology(exchanges, (Queue("a", (Binding("e", "x"), Binding("e", "y")), "one"),)))
    await peer.broker.declare(Topology(exchanges, (Queue("a", (Binding("e", "y"), Binding("e", "x")), "two"),)))


@pytest.mark.parametrize("again", [("e:y",), (), ("e:x", "e:y"), ("f:x",)], ids=["other", "none", "more", "other-exchange"])
async def test_other_bindings_are_a_conflict_that_names_both_origins(peer: Peer, again: tuple[str, ...]) -> None:
    exchanges = (Exchange("e"), Exchange("f"))
    await peer.broker.declare(Topology(exchanges, (bind("a", "e:x", origin="the shop"),)))
    with pytest.raises(TopologyConflict) as refused:
        await peer.broker.declare(Topology(exchanges, (bind("a", *again, origin="the mailer"),)))
    text = str(refused.value)
    assert '"a"' in text and "the shop" in text and "the mailer" in text and "e:x" in text
    assert all(binding in text for binding in again)


async def test_a_conflict_leaves_the_first_declaration_as_it_is(peer: Peer) -> None:
    await peer.broker.declare(Topology((Exchange("e"),), (bind("a", "e:x"),)))
    with pytest.raises(TopologyConflict):
        await peer.broker.declare(Topology((Exchange("e"),), (bind("a", "e:y"),)))
    await send(peer, event("e", "x"))
    with pytest.raises(Unroutable):
        await peer.broker.publish([event("e", "y")])


async def test_two_declarations_of_one_topology_may_conflict_too(peer: Peer) -> None:
    with pytest.raises(TopologyConflict, match=r"one.*two"):
        await peer.broker.declare(Topology((Exchange("e"),), (bind("a", "e:x", origin="one"), bind("a", "e:y", origin="two"))))


@pytest.mark.parametrize(
    "again", [Exchange("e", "direct"), Exchange("e", "fanout"), Exchange("e", "topic", archive=60.0)], ids=["direct", "fanout", "archive"]
)
async def test_another_kind_of_exchange_is_a_conflict_that_names_both(peer: Peer, again: Exchange) -> None:
    await peer.broker.declare(Topology((Exchange("e", "topic"),)))
    with pytest.raises(TopologyConflict) as refused:
        await peer.broker.declare(Topology((again,)))
    text = str(refused.value)
    assert '"e"' in text and "topic" in text and again.kind in text
    await peer.broker.declare(Topology((Exchange("e", "topic"),)))


async def test_a_queue_that_is_declared_later_gets_what_is_published_later(engine: EngineUnderTest, peer: Peer) -> None:
    await peer.broker.declare(Topology((Exchange("e"),), (bind("a", "e:#"),)))
    await send(peer, event("e", "x", "early"))
    await peer.broker.declare(Topology((Exchange("e"),), (bind("b", "e:x"),)))
    await send(peer, event("e", "x", "late"))
    assert await drain(engine, peer, "a") == ["early", "late"]
    assert await drain(engine, peer, "b") == ["late"]


async def test_what_was_unroutable_is_routed_once_somebody_takes_it(peer: Peer) -> None:
    await peer.broker.declare(Topology((Exchange("e"),), ()))
    for publication in (event("e", "x"), to("a")):
        with pytest.raises(Unroutable):
            await peer.broker.publish([publication])
    await peer.broker.declare(Topology((), (bind("a", "e:x"),)))
    await send(peer, event("e", "x"), to("a"))
    assert (await peer.broker.depth("a")).ready == 2


async def test_a_queue_with_bindings_is_also_reached_by_its_name(peer: Peer) -> None:
    await peer.broker.declare(Topology((Exchange("e"),), (bind("a", "e:x"),)))
    await send(peer, to("a"))
    assert (await peer.broker.depth("a")).ready == 1


async def test_an_undeclared_queue_is_not_found(peer: Peer) -> None:
    with pytest.raises(NotFound, match="missing"):
        await peer.broker.depth("missing")
    with pytest.raises(NotFound, match="missing"):
        await peer.broker.purge("missing")
    with pytest.raises(NotFound, match="missing"):
        async with peer.broker.consume(["missing"], prefetch=1):
            pass
