"""A dead letter of a unique key is retried only when no other message has the key."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import apsw
import pytest

from chappe.engines.contract.broker import Ack, Dead, Settlement
from chappe.engines.file.broker import FileBroker
from chappe.engines.file.letters import listing
from chappe.engines.file.server import Engine
from chappe.engines.file.store import store_of
from chappe.errors import Rejected
from chappe.messages.envelope import Envelope, Options, Publication
from chappe.messages.topology import Topology, bind


class File:
    """A file engine with one queue."""

    def __init__(self, broker: FileBroker) -> None:
        self.broker = broker
        self.store = store_of(broker)

    async def send(self, name: str, *, window: float | None = None) -> str:
        options = Options(unique="task:1", unique_for=window)
        (receipt,) = await self.broker.publish([Publication(Envelope(name, "task", b"{}"), "q", options=options)])
        return receipt.outcome

    async def end(self, *, dead: bool = False) -> str:
        """End the next message and tell its id."""
        async with self.broker.consume(["q"], prefetch=1) as consumer:
            (delivery,) = await consumer.receive(1, 5.0)
            settlement: Settlement = Dead(delivery.tag, "no") if dead else Ack(delivery.tag)
            assert await consumer.settle([settlement]) == []
            return delivery.envelope.id


@pytest.fixture
async def file(tmp_path: Path) -> AsyncIterator[File]:
    engine = Engine(tmp_path / "chappe.db", grace=0.0)
    broker = FileBroker(tmp_path / "chappe.db", engine=engine)
    await broker.declare(Topology(queues=(bind("q"),)))
    yield File(broker)
    await broker.close()
    engine.close()


async def test_a_letter_is_not_retried_beside_a_newer_message_of_its_unique_key(file: File) -> None:
    await file.send("old")
    await file.end(dead=True)
    assert await file.send("new") == "stored"
    with pytest.raises(Rejected, match=r"dead letter 1 cannot be retried beside message new.*discard it"):
        await file.store.retry_letters([1])
    assert (await file.broker.depth("q")).ready == 1
    assert await file.end() == "new"
    assert await file.store.retry_letters([1]) == 1
    assert await file.end() == "old"


async def test_a_retried_letter_has_its_unique_key_again_until_it_ends(file: File) -> None:
    await file.send("old")
    await file.end(dead=True)
    await file.store.retry_letters([1])
    assert await file.send("new") == "duplicate"
    await file.end(dead=True)
    assert await file.store.retry_letters([2]) == 1
    await file.end()
    assert await file.send("new") == "stored"


async def test_of_two_letters_of_one_unique_key_one_is_retried_at_a_time(file: File) -> None:
    for name in ("a", "b"):
        await file.send(name)
        await file.end(dead=True)
    with pytest.raises(Rejected, match="beside message a"):
        await file.store.retry_letters([1, 2])
    assert (await file.broker.depth("q")).dead == 2, "none of a call that is refused"
    assert await file.store.retry_letters([2, 2]) == 1


async def test_a_window_of_time_keeps_no_letter_from_being_retried(file: File) -> None:
    await file.send("old", window=60.0)
    await file.end(dead=True)
    assert await file.store.retry_letters([1]) == 1
    assert await file.end() == "old"


async def test_letters_of_one_queue_are_found_by_their_queue_however_many_others_there_are(file: File, tmp_path: Path) -> None:
    for wanted in (listing(None, 7, 10), listing(1, 7, 10)):
        reads = apsw.Connection(str(tmp_path / "chappe.db"), flags=apsw.SQLITE_OPEN_READONLY)
        plan = " ".join(row[3] for row in reads.execute(f"explain query plan {wanted[0]}", wanted[1]))
        reads.close()
        assert "SCAN" not in plan
        assert ("dead_by_queue (queue=? AND number>?)" in plan) == (wanted[1][0] == 1)
