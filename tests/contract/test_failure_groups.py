"""Failure groups over every engine: what a gateway reads by number, and what all gateways agree on."""

from __future__ import annotations

from chappe.engines.contract.broker import Ack, Dead, Retry
from chappe.failure_groups import FailureGroups, act_on, edited
from chappe.messages.envelope import Publication

from .engine import Peer
from .scenes import declare, gather, settle, to

PLACED = "{kind}: house {n}\n  at shop:{place} line {n}: raise error\n\nTraceback (most recent call last):\n…"


async def failed(peer: Peer, place: str, count: int, kind: str = "ValueError") -> None:
    """Have messages die of one cause."""
    publications: list[Publication] = [to("q", f'{{"house": {n}, "more": "x"}}') for n in range(count)]
    await peer.broker.publish(publications)
    async with peer.broker.consume(["q"], prefetch=count) as consumer:
        deliveries = await gather(consumer, count)
        await settle(consumer, *(Dead(one.tag, "failed", PLACED.format(kind=kind, place=place, n=n)) for n, one in enumerate(deliveries)))


async def groups_of(peer: Peer, groups: FailureGroups) -> dict[str, int]:
    await groups.refresh(peer.store)
    return {group.cause.place: len(group.numbers) for group in groups.groups()}


async def test_letters_of_one_cause_are_a_group_of_which_an_edited_retry_touches_no_other(peer: Peer) -> None:
    await declare(peer, "q")
    await failed(peer, "parse", 5)
    await failed(peer, "price", 3)
    groups = FailureGroups()
    assert await groups_of(peer, groups) == {"shop:parse": 5, "shop:price": 3}
    (group,) = (group for group in groups.groups() if group.cause.place == "shop:parse")
    for number in group.numbers:
        await peer.store.edit_letter(number, edited(await peer.store.letter(number), {"more": "y"}))
    told = await act_on(peer.store, list(group.numbers), "retry")
    assert (told.done, told.refused) == (5, [])
    groups.forget(told.gone)
    assert await groups_of(peer, groups) == {"shop:price": 3}
    async with peer.broker.consume(["q"], prefetch=5) as consumer:
        bodies = sorted(one.envelope.body.decode().replace(" ", "") for one in await gather(consumer, 5))
    assert bodies == [f'{{"house":{n},"more":"y"}}' for n in range(5)]


async def test_what_others_took_away_is_noticed_and_what_was_said_is_known_to_all(peer: Peer) -> None:
    await declare(peer, "q")
    await failed(peer, "parse", 4)
    groups, others = FailureGroups(), FailureGroups()
    assert await groups_of(peer, groups) == await groups_of(peer, others) == {"shop:parse": 4}
    (group,) = groups.groups()
    await act_on(peer.store, list(group.numbers[:3]), "discard")
    while await groups_of(peer, others) != {"shop:parse": 1}:
        pass
    await peer.store.desire(f"failure:{group.cause.fingerprint}", "ignored", "anne")
    await peer.store.desire("act:discard", "3 dead letters", "anne")
    await others.refresh(peer.store)
    said = others.said_of(group.cause.fingerprint)
    assert said is not None and (said.value, said.who, others.groups()[0].state(said)) == ("ignored", "anne", "ignored")
    assert [(one.what, one.value) for one in await peer.store.desired(every=True)][-1] == ("act:discard", "3 dead letters")


async def test_what_has_failed_and_waits_for_another_attempt_is_listed_until_it_ends(peer: Peer) -> None:
    await declare(peer, "q")
    assert await peer.store.failing() == []
    await peer.broker.publish([to("q", "{}") for _ in range(4)])
    async with peer.broker.consume(["q"], prefetch=4) as consumer:
        lent = await gather(consumer, 4)
        texts = [PLACED.format(kind="ValueError", place="parse", n=n) for n in range(4)]
        await settle(
            consumer,
            Retry(lent[0].tag, after=1000.0, error=texts[0]),
            Retry(lent[1].tag, after=1000.0, error=texts[1]),
            Dead(lent[2].tag, "failed", texts[2]),
            Ack(lent[3].tag),
        )
    found = await peer.store.failing()
    assert [(one.envelope.id, one.queue, one.error, one.attempts) for one in found] == [
        (lent[n].envelope.id, "q", texts[n], 1) for n in (0, 1)
    ]
    assert [one.number for one in await peer.store.failing(after=found[0].number)] == [found[1].number]
    assert len(await peer.store.failing(limit=1)) == 1
    groups = FailureGroups()
    await groups.refresh(peer.store)
    assert [(len(group.numbers), group.waiting) for group in groups.groups()] == [(1, 2)]
