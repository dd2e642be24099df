"""What became of a queue's messages is counted in the file: a restart of the engine does not begin it anew."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from chappe.engines.contract.broker import Ack, Dead, Retry, Settlement
from chappe.engines.file.broker import FileBroker
from chappe.engines.file.server import Engine
from chappe.engines.file.store import store_of
from chappe.errors import Rejected
from chappe.messages.envelope import Envelope, Publication
from chappe.messages.topology import Topology, bind

EXPECTED = {"published": 3, "done": 1, "retried": 1, "died": 1}


async def counts(broker: FileBroker) -> dict[str, int]:
    (queue,) = (await store_of(broker).overview()).queues
    return {name: getattr(queue, name) for name in EXPECTED}


async def live_a_little(broker: FileBroker) -> None:
    await broker.declare(Topology(queues=(bind("q"),)))
    await broker.publish([Publication(Envelope(str(n), "t", b"{}"), "q") for n in range(3)])
    async with broker.consume(["q"], prefetch=10) as consumer:
        first, second, third = await consumer.receive(3, 5.0)
        ends: Sequence[Settlement] = [Ack(first.tag), Retry(second.tag, 60.0, error="E"), Dead(third.tag, "no")]
        assert await consumer.settle(ends) == []


async def test_what_was_done_is_known_after_a_restart_and_after_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "chappe.db"
    engine = Engine(path, grace=0.0)
    broker = FileBroker(path, engine=engine)
    await live_a_little(broker)
    assert await counts(broker) == EXPECTED
    await broker.close()
    engine.close()
    for _ in range(2):
        engine = Engine(path, grace=0.0)
        broker = FileBroker(path, engine=engine)
        assert await counts(broker) == EXPECTED
        await broker.close()
        engine.ledger.turn.db.close()  # as a killed process leaves it
        engine.ledger.close = lambda **_: None  # type: ignore[method-assign]
        engine.close()


async def test_a_turn_that_is_undone_counts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "chappe.db"
    engine = Engine(path, grace=0.0)
    broker = FileBroker(path, engine=engine)
    await live_a_little(broker)

    def fail(_: Any) -> None:
        raise RuntimeError("broken")

    with monkeypatch.context() as broken:
        broken.setattr(engine, "_remember_serials", fail)
        with pytest.raises(Rejected, match="the engine failed"):
            await broker.publish([Publication(Envelope("x", "t", b"{}"), "q")])
    assert await counts(broker) == EXPECTED
    await broker.close()
    engine.close()


async def test_a_file_whose_counts_are_of_an_older_release_is_read(tmp_path: Path) -> None:
    path = tmp_path / "chappe.db"
    engine = Engine(path, grace=0.0)
    broker = FileBroker(path, engine=engine)
    await live_a_little(broker)
    await broker.close()
    for name, value in engine.ledger.turn.db.execute("select name, value from tally where name like 'queue %'").fetchall():
        short = msgspec.json.encode(msgspec.json.decode(value)[:3])
        engine.ledger.turn.db.execute("update tally set value = ? where name = ?", (short, name))
    engine.close()
    engine = Engine(path, grace=0.0)
    broker = FileBroker(path, engine=engine)
    assert await counts(broker) == dict.fromkeys(EXPECTED, 0)
    assert (await broker.depth("q")).dead == 1
    await broker.close()
    engine.close()
