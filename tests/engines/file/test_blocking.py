"""Publishing from threads without an event loop, over the life and death of engines."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
import pytest

from chappe.engines.file.blocking import FilePublisher
from chappe.engines.file.client import decode_plain
from chappe.errors import BrokerUnavailable, TopologyConflict, Unconfirmed, Unroutable
from chappe.messages.capabilities import Exchange
from chappe.messages.envelope import Envelope, Options, Publication
from chappe.messages.topology import Topology, bind

from ...waiting import until

TOPOLOGY = Topology(queues=(bind("q"),))
SERVE = (
    "import asyncio, sys; from pathlib import Path; from chappe.engines.file.serving import serve; asyncio.run(serve(Path(sys.argv[1])))"
)


class Host:
    """A file whose engine can be started, stopped and killed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen([sys.executable, "-c", SERVE, str(self.path)], stderr=subprocess.DEVNULL)
        until(self.answers, "the engine")

    def answers(self) -> bool:
        return FilePublisher(self.path, Topology).takes(())

    def end(self, number: int = signal.SIGKILL) -> None:
        assert self.process is not None
        self.process.send_signal(number)
        self.process.wait()


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    made = Host(tmp_path / "chappe.db")
    made.start()
    yield made
    if made.process is not None and made.process.poll() is None:
        made.end()


def message(identity: str, queue: str = "q", **options: object) -> Publication:
    return Publication(Envelope(identity, "t", b"{}"), queue, options=Options(**options) if options else None)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]


def publish(client: FilePublisher, publications: Sequence[Publication]) -> list[str]:
    """Publish without an event loop, and return the ids of the receipts."""
    try:
        client.publish(publications).send(None)
    except StopIteration as ended:
        return [receipt.id for receipt in ended.value]
    raise AssertionError("it suspended")


def stored(client: FilePublisher) -> list[str]:
    """Return the ids that are ready in the queue."""
    assert client.takes(())
    rows, _ = decode_plain(client._mine.link.ask("look", ("q", "ready", [], "", 1000), time.monotonic() + 5))
    return [row["envelope"][0] for row in rows]


def test_a_publication_is_stored_and_answered(host: Host) -> None:
    client = FilePublisher(host.path, lambda: TOPOLOGY)
    assert client.takes(())
    assert publish(client, [message("a"), message("b")]) == ["a", "b"]
    assert stored(client) == ["a", "b"]
    client.close()


def test_where_no_engine_runs_it_says_so_and_stores_nothing(tmp_path: Path) -> None:
    assert not FilePublisher(tmp_path / "chappe.db", lambda: TOPOLOGY).takes(())
    assert not (tmp_path / "chappe.db").exists()


def test_refusals_come_as_what_they_are_and_the_connection_stays(host: Host) -> None:
    client = FilePublisher(host.path, lambda: TOPOLOGY)
    assert client.takes(())
    with pytest.raises(Unroutable, match="nowhere"):
        publish(client, [message("a", "nowhere")])
    publish(client, [message("b")])
    assert stored(client) == ["b"]
    with pytest.raises(TopologyConflict):
        FilePublisher(host.path, lambda: Topology((Exchange("x", "topic"),), (bind("q", "x:#"),))).takes(())
    client.close()


def test_what_is_known_later_is_declared_over_the_same_connection(host: Host) -> None:
    known = [TOPOLOGY]
    client = FilePublisher(host.path, lambda: known[-1])
    assert client.takes(())
    link = client._mine.link
    known.append(Topology(queues=(*TOPOLOGY.queues, bind("later"))))
    assert client.takes(()) and client._mine.link is link
    assert publish(client, [message("a", "later")]) == ["a"]
    client.close()


def test_each_thread_has_its_own_connection_and_all_is_stored(host: Host) -> None:
    client = FilePublisher(host.path, lambda: TOPOLOGY)

    def send(number: int) -> None:
        assert client.takes(())
        for n in range(20):
            publish(client, [message(f"{number}-{n}")])

    threads = [threading.Thread(target=send, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = stored(client)
    assert sorted(found) == sorted(f"{number}-{n}" for number in range(4) for n in range(20))
    for number in range(4):
        assert [name for name in found if name.startswith(f"{number}-")] == [f"{number}-{n}" for n in range(20)]
    client.close()


def test_an_engine_that_was_restarted_between_two_sends_is_not_noticed(host: Host) -> None:
    client = FilePublisher(host.path, lambda: TOPOLOGY)
    assert client.takes(())
    publish(client, [message("a")])
    host.end()
    assert not client.takes(())
    host.start()
    assert client.takes(())
    publish(client, [message("b")])
    assert stored(client) == ["a", "b"]
    client.close()


def test_killing_the_engine_under_a_stream_of_publications_loses_and_doubles_nothing(host: Host) -> None:
    client = FilePublisher(host.path, lambda: TOPOLOGY, deadline=60.0)
    confirmed: list[str] = []
    failures: list[BaseException] = []

    def stream() -> None:
        try:
            for n in range(600):
                if not client.takes(()):
                    until(lambda: client.takes(()), "the engine")
                publish(client, [message(f"m{n}")])
                confirmed.append(f"m{n}")
        except BaseException as error:  # told to the test below
            failures.append(error)

    thread = threading.Thread(target=stream)
    thread.start()
    for part in (100, 250, 400):
        until(lambda part=part: len(confirmed) >= part or failures, "the stream")  # type: ignore[misc]
        host.end()
        host.start()
    thread.join(60)
    assert failures == []
    assert len(confirmed) == 600
    assert stored(client) == confirmed
    client.close()


def lost_answer(host: Host, client: FilePublisher, publication: Publication, *, store: bool) -> Callable[[], object]:
    """Say a publication over a connection whose answer is lost, stored or not, and give what repeats it."""
    assert client.takes(())
    link = client._mine.link
    real = link.exchange

    def cut(serial: int, body: bytes, until: float) -> msgspec.Raw:
        link.exchange = real
        if store:
            real(serial, body, until)
        raise EOFError

    link.exchange = cut
    return lambda: publish(client, [publication])


@pytest.mark.parametrize("store", [True, False])
def test_a_publication_whose_answer_was_lost_is_stored_once(host: Host, store: bool) -> None:
    client = FilePublisher(host.path, lambda: TOPOLOGY)
    lost_answer(host, client, message("a"), store=store)()
    assert stored(client) == ["a"]
    client.close()


def test_a_merging_publication_whose_answer_was_lost_is_unconfirmed_rather_than_guessed(host: Host) -> None:
    client = FilePublisher(host.path, lambda: TOPOLOGY)
    with pytest.raises(Unconfirmed):
        lost_answer(host, client, message("a", key="k", merges=True), store=True)()
    assert stored(client) == ["a"]
    client.close()


def test_a_frozen_engine_is_an_error_at_the_deadline_and_the_next_send_goes_on(host: Host) -> None:
    assert host.process is not None
    client = FilePublisher(host.path, lambda: TOPOLOGY, deadline=60.0)
    assert client.takes(())
    client._deadline = 1.0
    host.process.send_signal(signal.SIGSTOP)
    with pytest.raises(Unconfirmed):
        publish(client, [message("a")])
    host.process.send_signal(signal.SIGCONT)
    client._deadline = 60.0
    until(lambda: client.takes(()), "the engine")
    publish(client, [message("b")])
    assert stored(client)[-1] == "b"
    client.close()


def test_signals_do_not_put_off_the_deadline(host: Host) -> None:
    assert host.process is not None
    client = FilePublisher(host.path, lambda: TOPOLOGY, deadline=60.0)
    assert client.takes(())
    client._deadline = 0.5
    host.process.send_signal(signal.SIGSTOP)
    over = threading.Event()

    def disturb() -> None:
        while not over.wait(0.1):  # as long as it takes: a deadline that signals put off never comes
            signal.pthread_kill(sender, signal.SIGUSR2)

    sender, before = threading.get_ident(), signal.signal(signal.SIGUSR2, lambda *_: None)
    disturber = threading.Thread(target=disturb)
    disturber.start()
    try:
        with pytest.raises(Unconfirmed):
            publish(client, [message("a")])
        with pytest.raises(BrokerUnavailable, match="did not answer in time"):
            FilePublisher(host.path, lambda: TOPOLOGY, deadline=0.5).takes(())
    finally:
        over.set()
        disturber.join()
        signal.signal(signal.SIGUSR2, before)
        host.process.send_signal(signal.SIGCONT)
    client.close()


def test_a_default_timeout_for_other_sockets_is_not_the_deadline(host: Host) -> None:
    process = host.process
    assert process is not None
    socket.setdefaulttimeout(0.1)
    try:
        client = FilePublisher(host.path, lambda: TOPOLOGY)
        assert client.takes(())
        process.send_signal(signal.SIGSTOP)
        threading.Timer(0.5, process.send_signal, (signal.SIGCONT,)).start()
        publish(client, [message("a", key="k", merges=True)])
        client.close()
    finally:
        socket.setdefaulttimeout(None)


def test_what_fills_the_socket_is_sent_as_the_engine_reads_it(host: Host) -> None:
    client = FilePublisher(host.path, lambda: TOPOLOGY, deadline=60.0)
    assert client.takes(())
    large = [Publication(Envelope(f"m{n}", "t", b"{}" + b" " * 2_000_000), "q") for n in range(4)]
    assert publish(client, large) == [f"m{n}" for n in range(4)]
    client.close()


def test_a_child_process_does_not_speak_over_its_parents_socket(host: Host) -> None:
    client = FilePublisher(host.path, lambda: TOPOLOGY)
    assert client.takes(())
    publish(client, [message("parent")])
    before = os.fstat(client._mine.link._socket.fileno()).st_ino
    child = os.fork()
    if child == 0:
        code = 1
        try:
            assert client.takes(())
            assert os.fstat(client._mine.link._socket.fileno()).st_ino != before
            publish(client, [message("child")])
            client.close()
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    link = client._mine.link
    assert client.takes(())
    assert client._mine.link is link, "the parent's connection is as it was"
    publish(client, [message("again")])
    client.close()
