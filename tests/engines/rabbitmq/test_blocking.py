"""Publishing from threads without an event loop: a connection for each, kept over silence, opened again when it is gone."""

from __future__ import annotations

import contextlib
import gc
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import pytest

from chappe.engines.rabbitmq.blocking import RabbitPublisher
from chappe.engines.rabbitmq.link import Link
from chappe.engines.rabbitmq.names import QUORUM
from chappe.errors import BrokerUnavailable, Unconfirmed
from chappe.messages.envelope import Envelope, Options, Publication, Receipt
from chappe.messages.topology import Topology, bind
from tests.servers.rabbitmq import RabbitNode
from tests.waiting import PATIENCE, until


def to(queue: str, name: str = "m", **wishes: object) -> Publication:
    return Publication(Envelope(name, "test", b"{}"), queue, **wishes)  # pyright: ignore[reportArgumentType] - wishes of a publication


def stepped(publisher: RabbitPublisher, *publications: Publication) -> list[str]:
    """Publish as `App.send` does, from whichever thread this is."""
    work = publisher.publish(publications)
    try:
        work.send(None)
    except StopIteration as ended:
        return [receipt.id for receipt in ended.value]
    raise AssertionError("it suspended")


def in_thread(work: Callable[[], object]) -> None:
    """Do something in a thread of its own, and raise what it raised."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    if raised:
        raise raised[0]


@pytest.fixture
async def name(link: Link) -> str:
    found = uuid4().hex
    await link.queue(found, arguments=QUORUM)
    return found


class Elsewhere:
    """A publisher of what is kept beside RabbitMQ, that takes what has a key."""

    def __init__(self) -> None:
        self.published: list[Publication] = []

    def takes(self, publications: Sequence[Publication]) -> bool:
        return all(p.options is not None and p.options.key is not None for p in publications)

    async def publish(self, publications: Sequence[Publication]) -> list[Receipt]:
        self.published += publications
        return [Receipt(p.envelope.id) for p in publications]

    def close(self) -> None:
        self.published.clear()


def publisher_of(node: RabbitNode, name: str, *, deadline: float = 60.0) -> RabbitPublisher:
    return RabbitPublisher(node.url, lambda: Topology(queues=(bind(name),)), lambda: True, kept=Elsewhere(), deadline=deadline)


async def test_each_thread_publishes_and_what_it_published_is_there(link: Link, node: RabbitNode, name: str) -> None:
    publisher = publisher_of(node, name)

    def work() -> None:
        assert publisher.takes([to(name)])
        assert stepped(publisher, to(name, "a")) == ["a"]
        assert stepped(publisher, *[to(name, f"b{n}") for n in range(100)]) == [f"b{n}" for n in range(100)]

    in_thread(work)
    in_thread(work)
    assert (await link.queue(name, passive=True))[1] == 202
    publisher.close()


async def test_the_connection_of_a_thread_goes_with_it(node: RabbitNode, name: str) -> None:
    publisher = publisher_of(node, name)
    in_thread(lambda: stepped(publisher, to(name)))
    gc.collect()
    until(lambda: "chappe client publishes" not in node.control("list_connections", "client_properties"), "the connection to be gone")
    publisher.close()


async def test_closing_while_threads_send_lets_each_send_end_or_says_that_nothing_was_sent(link: Link, node: RabbitNode, name: str) -> None:
    publisher = publisher_of(node, name)
    ending = threading.Event()
    sent: list[str] = []
    refused: list[str] = []
    broken: list[BaseException] = []

    def work(me: int) -> None:
        count = 0
        while not ending.is_set():
            count += 1
            try:
                sent.extend(stepped(publisher, to(name, f"{me}-{count}")))
            except BrokerUnavailable as error:
                refused.append(str(error))
            except BaseException as error:
                broken.append(error)
                return

    threads = [threading.Thread(target=work, args=(me,)) for me in range(2)]
    for thread in threads:
        thread.start()
    closed = 0
    while closed < 40 and not broken:
        before = len(sent)
        publisher.close()
        closed += 1
        until(lambda before=before: len(sent) > before or broken)
    ending.set()
    for thread in threads:
        thread.join(60)
    publisher.close()
    assert broken == []
    assert all("nothing was sent" in text for text in refused)
    assert (await link.queue(name, passive=True))[1] == len(sent)


async def test_what_the_store_keeps_what_is_not_ours_and_what_a_loop_sends_goes_another_way(node: RabbitNode, name: str) -> None:
    publisher = publisher_of(node, name)
    found: list[bool] = []
    in_thread(
        lambda: found.extend(
            publisher.takes([p])
            for p in (
                to(name),
                to(name, delay=1.0),
                to(name, priority=1),
                to(name, options=Options(key="k")),
                to("elsewhere"),
                to("x", exchange="y"),
            )
        )
    )
    assert found == [True, False, False, True, False, False]
    assert not publisher.takes([to(name)]), "this thread runs a loop"
    undeclared = RabbitPublisher(node.url, lambda: Topology(queues=(bind(name),)), lambda: False, kept=Elsewhere(), deadline=60.0)
    in_thread(lambda: found.append(undeclared.takes([to(name)])))
    assert not found[-1]


async def test_what_is_kept_beside_rabbitmq_is_published_there(node: RabbitNode, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Elsewhere()
    monkeypatch.setattr(kept, "takes", lambda _: True)
    publisher = RabbitPublisher(node.url, lambda: Topology(queues=(bind(name),)), lambda: True, kept=kept, deadline=60.0)
    mask, plain = to(name, "mask", options=Options(key="k", merges=True)), to(name, "plain")
    assert publisher.takes([mask]) and not publisher.takes([mask, plain]), "they go to two servers"
    assert stepped(publisher, mask) == ["mask"] and kept.published == [mask]
    publisher.close()
    assert not kept.published, "it was closed too"


@pytest.mark.proof
async def test_after_the_broker_was_away_a_thread_publishes_again(node: RabbitNode, name: str) -> None:
    publisher = publisher_of(node, name, deadline=3.0)
    time.sleep(2.0)  # a queue that was made a second ago is lost with its node (docs/decisions/009)
    with ThreadPoolExecutor(1) as thread:  # the node dies with the thread that starts it: that is this one
        thread.submit(stepped, publisher, to(name, "before")).result(PATIENCE)
        node.kill()
        with pytest.raises((BrokerUnavailable, Unconfirmed)):
            thread.submit(stepped, publisher, to(name, "while it is away")).result(PATIENCE)
        node.start()

        def publishes() -> bool:
            with contextlib.suppress(BrokerUnavailable, Unconfirmed):
                return thread.submit(stepped, publisher, to(name, "after")).result(PATIENCE) == ["after"]
            return False

        until(publishes, "the thread to publish again")
    publisher.close()


async def test_what_interrupts_a_send_leaves_the_thread_able_to_send(node: RabbitNode, name: str) -> None:
    publisher = publisher_of(node, name)

    def work() -> None:
        stepped(publisher, to(name, "first"))
        own = publisher._mine.own  # pyright: ignore[reportPrivateUsage] - where an interrupt can be put
        own.loop.call_soon(_interrupt)
        with pytest.raises(KeyboardInterrupt):
            stepped(publisher, to(name, "interrupted"))
        assert stepped(publisher, to(name, "second")) == ["second"]

    in_thread(work)
    publisher.close()


def _interrupt() -> None:
    raise KeyboardInterrupt


FORKS = """
import os, sys
from chappe.engines.rabbitmq.blocking import RabbitPublisher
from chappe.messages.envelope import Envelope, Publication
from chappe.messages.topology import Topology, bind
from tests.engines.rabbitmq.test_blocking import Elsewhere

url, queue = sys.argv[1:]
publisher = RabbitPublisher(url, lambda: Topology(queues=(bind(queue),)), lambda: True, kept=Elsewhere(), deadline=60.0)

def send(name):
    try:
        publisher.publish([Publication(Envelope(name, "t", b"{}"), queue)]).send(None)
    except StopIteration:
        pass

send("parent before")
link = publisher._mine.own.outlet._link
if child := os.fork():
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    for n in range(5):
        send(f"parent after {n}")
    assert publisher._mine.own.outlet._link is link and not link.ended.done(), "the child spoke for its parent"
else:
    send("child")
    assert publisher._mine.own.outlet._link is not link
"""


async def test_a_forked_child_has_a_connection_of_its_own_and_its_end_says_nothing_for_its_parent(
    link: Link, node: RabbitNode, name: str
) -> None:
    done = subprocess.run([sys.executable, "-c", FORKS, node.url, name], capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    assert (await link.queue(name, passive=True))[1] == 7
