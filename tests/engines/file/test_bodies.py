"""Large bodies (row T13): in files beside the database, there before their messages and gone after them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from chappe.engines.contract.broker import Ack, Dead, Delivery, Retry
from chappe.engines.file.bodies import HEADER, folder_of
from chappe.engines.file.broker import FileBroker, FileConsumer
from chappe.engines.file.seal import DAMAGED
from chappe.engines.file.server import Engine
from chappe.engines.file.store import store_of
from chappe.errors import Unroutable
from chappe.messages.capabilities import Exchange
from chappe.messages.envelope import Envelope, Options, Publication
from chappe.messages.topology import Binding, Topology, bind
from tests.waiting import auntil

LARGE = 1000
BODY = os.urandom(5000)
TOPOLOGY = Topology(
    (Exchange("events", archive=3600.0),), (bind("q"), bind("a", Binding("events", "x")), bind("b", Binding("events", "x")))
)


def message(name: str = "m", body: bytes = BODY) -> Envelope:
    return Envelope(name, "test", body, headers={"traceparent": "1"})


class Host:
    """An engine in this process, its client, and the folder of its bodies."""

    def __init__(self, path: Path) -> None:
        self.path = path / "chappe.db"

    async def start(self) -> None:
        self.engine = Engine(self.path, grace=0.0)
        self.broker = FileBroker(self.path, engine=self.engine, large_body=LARGE)
        self.store = store_of(self.broker)
        await self.broker.declare(TOPOLOGY)

    async def stop(self) -> None:
        await self.broker.close()
        self.engine.close()

    async def restart(self) -> None:
        await self.stop()
        await self.start()

    async def publish(self, *publications: Publication) -> None:
        await self.broker.publish(publications)

    async def one(self, consumer: FileConsumer) -> Delivery:
        (delivery,) = await consumer.receive(1, 30.0)
        return delivery

    @property
    def files(self) -> int:
        folder = folder_of(self.path)
        return len(os.listdir(folder)) if folder.exists() else 0

    async def files_become(self, count: int) -> None:
        await auntil(lambda: self.files == count, f"{count} files to be there")


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    made = Host(tmp_path)
    await made.start()
    yield made
    await made.stop()


async def test_a_large_body_comes_back_whole_also_after_a_retry_and_goes_with_its_message(host: Host) -> None:
    await host.publish(Publication(message(), "q"))
    assert host.files == 1
    async with host.broker.consume(["q"], prefetch=10) as consumer:
        delivery = await host.one(consumer)
        assert delivery.envelope == message()
        await consumer.settle([Retry(delivery.tag, 0.0, error="again")])
        again = await host.one(consumer)
        assert (again.envelope, again.attempt) == (message(), 2)
        await consumer.settle([Ack(again.tag)])
    await host.files_become(0)


async def test_a_small_body_is_in_no_file(host: Host) -> None:
    await host.publish(Publication(message(body=b"x" * LARGE), "q"))
    assert host.files == 0


async def test_a_message_of_several_queues_and_of_the_archive_has_one_file_until_the_last_is_gone(host: Host) -> None:
    await host.publish(Publication(message(), "x", "events"))
    assert host.files == 1
    for queue in ("a", "b"):
        async with host.broker.consume([queue], prefetch=10) as consumer:
            delivery = await host.one(consumer)
            assert delivery.envelope.body == BODY
            await consumer.settle([Ack(delivery.tag)])
    host.engine.prune()
    (record,) = (await host.store.archived(0, 10)).records
    assert record.envelope == message()
    assert host.files == 1


async def test_dead_letters_keep_their_bodies_until_they_are_discarded(host: Host) -> None:
    await host.publish(Publication(message(), "q"))
    async with host.broker.consume(["q"], prefetch=10) as consumer:
        await consumer.settle([Dead((await host.one(consumer)).tag, "failed")])
    (letter,) = await host.store.letters()
    assert letter.envelope == message()
    assert (await host.store.letter(letter.number)).envelope == message()
    await host.store.discard_letters([letter.number])
    host.engine.prune()
    await host.files_become(0)


async def test_what_waits_is_shown_with_its_body_over_a_restart_and_a_purge_removes_it(host: Host) -> None:
    await host.publish(Publication(message("now"), "q"), Publication(message("later"), "q", delay=3600.0))
    await host.restart()
    for state in ("ready", "delayed"):
        (shown,) = (await host.store.look("q", state)).messages
        assert shown.envelope.body == BODY
    assert await host.broker.purge("q") == 2
    await host.files_become(0)


async def test_what_leaves_with_an_acknowledgement_may_be_large_too(host: Host) -> None:
    await host.publish(Publication(message("small", b"1"), "q"))
    async with host.broker.consume(["q"], prefetch=10) as consumer:
        await consumer.settle([Ack((await host.one(consumer)).tag, (Publication(message("large"), "q"),))])
        assert (await host.one(consumer)).envelope == message("large")


async def test_a_large_message_is_merged_with_the_whole_pending_one_and_the_file_of_that_goes(host: Host) -> None:
    merging = Options(key="k", merges=True)
    await host.publish(Publication(message("first"), "q", options=merging))
    (receipt,) = await host.broker.publish([Publication(message("second"), "q", options=merging)])
    assert receipt.pending == message("first")
    merged = Publication(message("third"), "q", options=Options(key="k", merges=True, replaces=receipt.version))
    assert [r.outcome for r in await host.broker.publish([merged])] == ["merged"]
    host.engine.prune()
    await asyncio.sleep(0)
    (shown,) = (await host.store.look("q", "ready")).messages
    assert shown.envelope == message("third")


async def test_a_publication_that_is_refused_leaves_a_file_that_is_removed_when_it_is_old(host: Host) -> None:
    with pytest.raises(Unroutable):
        await host.publish(Publication(message(), "nowhere"))
    host.engine.prune()
    await host.broker.depth("q")
    assert host.files == 1, "it might have been under way"
    for file in folder_of(host.path).iterdir():
        os.utime(file, (0, 0))
    await host.restart()
    await host.files_become(0)


@pytest.mark.parametrize("damage", ["changed", "missing"])
async def test_a_body_that_is_not_what_was_written_is_never_handled(host: Host, damage: str) -> None:
    await host.publish(Publication(message(), "q"))
    (file,) = folder_of(host.path).iterdir()
    if damage == "changed":
        file.write_bytes(BODY[:-1] + b"!")
    else:
        file.unlink()
    async with host.broker.consume(["q"], prefetch=10) as consumer:
        delivery = await host.one(consumer)
    assert delivery.envelope.type == DAMAGED
    assert str(file).encode() in delivery.envelope.body


@pytest.mark.parametrize("named", ["../../etc/passwd 1 1", "x", "", f"{'0' * 32} 1"])
async def test_a_header_of_a_sender_opens_no_file(host: Host, named: str) -> None:
    await host.publish(Publication(Envelope("m", "test", b"", headers={HEADER: named}), "q"))
    async with host.broker.consume(["q"], prefetch=10) as consumer:
        assert (await host.one(consumer)).envelope.body == b""


async def test_bodies_are_readable_by_this_user_only(host: Host) -> None:
    await host.publish(Publication(message(), "q"))
    folder = folder_of(host.path)
    assert [path.stat().st_mode & 0o777 for path in (folder, *folder.iterdir())] == [0o700, 0o600]


@pytest.mark.proof
async def test_a_hundred_megabytes_come_back_whole(host: Host) -> None:
    body = os.urandom(100 * 1024 * 1024)
    await host.publish(Publication(message(body=body), "q"))
    async with host.broker.consume(["q"], prefetch=10) as consumer:
        delivery = await host.one(consumer)
        assert delivery.envelope.body == body
        await consumer.settle([Ack(delivery.tag)])
    await host.files_become(0)
