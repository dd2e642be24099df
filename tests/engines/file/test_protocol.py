"""Whatever one client says, twice, late or never, the others are served."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from chappe.engines.contract.broker import Ack
from chappe.engines.file.broker import FileBroker
from chappe.engines.file.connection import Connection
from chappe.engines.file.endings import Endings
from chappe.engines.file.server import Engine
from chappe.engines.file.verbs import DECODERS
from chappe.engines.file.wire import PROTOCOL, Frames, decode_answer, decode_request, frame
from chappe.errors import BrokerError
from chappe.messages.envelope import Envelope, Options, Publication
from chappe.messages.topology import Topology, bind

from ...waiting import auntil

SERVED_WITHIN = 30.0
SEQUENCES = 300


def message(identity: str, queue: str = "q", **options: Any) -> Publication:
    return Publication(Envelope(identity, "t", b"{}"), queue, options=Options(**options) if options else None)


class Stranger:
    """A client that says what it likes."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._heard = bytearray()
        self.aborted = False
        self.connection: Connection = engine.attach(self._heard.extend, self._abort)

    def _abort(self) -> None:
        self.aborted = True

    def say(self, serial: int, verb: str, *arguments: object) -> None:
        self._engine.submit(self.connection, decode_request(frame((serial, verb, arguments))[4:]))

    @property
    def answers(self) -> list[tuple[int, str | None]]:
        """The serial of each answer, and the text of its refusal."""
        found = [decode_answer(body) for body in Frames().feed(bytes(self._heard))]
        return [(answer.serial, None if answer.failure is None else answer.failure.text) for answer in found]


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[Engine]:
    made = Engine(tmp_path / "chappe.db", grace=0.0)
    yield made
    made.close()


@pytest.fixture
async def broker(engine: Engine) -> AsyncIterator[FileBroker]:
    made = FileBroker(engine.ledger.turn.path, engine=engine, deadline=SERVED_WITHIN)
    await made.declare(Topology(queues=(bind("q"), bind("mine"), bind("theirs"))))
    yield made
    await made.close()


async def serves(broker: FileBroker, number: int = 0) -> None:
    """Fail unless another client is served in every way that a worker needs."""
    await broker.publish([message(f"good-{number}", "mine")])
    async with broker.consume(["mine"], prefetch=1) as consumer:
        (delivery,) = await consumer.receive(1, SERVED_WITHIN)
        assert delivery.envelope.id == f"good-{number}"
        assert await consumer.settle([Ack(delivery.tag)]) == []
    await broker.call("overview")


HELLO = {"protocol": PROTOCOL, "name": "stranger"}


@pytest.mark.parametrize(
    "said",
    [
        [(1, "receive", ["q"], 1, 60.0), (1, "receive", ["q"], 1, 60.0)],
        [(1, "hello", HELLO), (2, "hello", {**HELLO, "name": "another"})],
        [(1, "hello", HELLO), (1, "hello", HELLO)],
        [(1, "hello", {**HELLO, "info": {"queues": "x" * 100_000}})],
        [(n, "receive", ["q"], 1, 60.0) for n in range(1001)],
    ],
    ids=["receives twice", "has two names", "says hello twice", "says much of itself", "asks too often"],
)
async def test_who_breaks_the_protocol_is_refused_and_dropped(
    engine: Engine, broker: FileBroker, caplog: pytest.LogCaptureFixture, said: list[Any]
) -> None:
    stranger = Stranger(engine)
    with caplog.at_level(logging.WARNING):
        for words in said:
            stranger.say(*words)
        await auntil(lambda: stranger.aborted, "the client to be dropped")
    assert [text for _, text in stranger.answers if text][0].startswith("bad request")
    assert "is dropped at its request" in caplog.text
    stranger.say(7, "publish", [])
    await serves(broker)
    assert (7, None) not in stranger.answers, "nothing is done for it any more"


@pytest.mark.parametrize(
    "said",
    [
        [(1, "cancel", 5), (1, "cancel", 1), (2, "cancel", 2)],
        [(1, "receive", ["q"], 1, 60.0), (2, "cancel", 1), (3, "cancel", 1), (4, "cancel", 1)],
        [(1, "settle", [("retry", 77), ("dead", 77, "x"), ("ack", 77)])],
        [(1, "hello", {**HELLO, "held": [("q", 1), ("q", 1), ("nowhere", 1), ("q", -5)]})],
        [(1, "hello", {**HELLO, "info": {"queues": 5, "suspects": [], "table": {}, "pid": None, "name": "else"}})],
        [(1, "receive", [], 1, 60.0), (2, "result", "x", 60.0), (2, "result", "x", 60.0)],
        [(1, "nothing"), (1, ""), (1, "_begin"), (1, "__init__", {})],
    ],
)
async def test_what_comes_late_or_for_nothing_is_answered_and_changes_nothing(engine: Engine, broker: FileBroker, said: list[Any]) -> None:
    stranger = Stranger(engine)
    for words in said:
        stranger.say(*words)
    await serves(broker)
    assert stranger.answers
    assert not stranger.aborted
    engine.detach(stranger.connection)
    await serves(broker, 1)


@pytest.mark.parametrize("verb", ["publish", "settle", "receive", "hello", "cancel", "overview"])
async def test_a_request_at_which_the_engine_fails_is_refused_and_the_turn_done_again_for_all_others(
    engine: Engine, broker: FileBroker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, verb: str
) -> None:
    stranger, other = Stranger(engine), Stranger(engine)
    stranger.say(1, "hello", HELLO)
    await auntil(lambda: stranger.answers, "the welcome")
    perform = engine._perform

    def failing(connection: Connection, request: Any) -> None:
        perform(connection, request)
        if connection is stranger.connection and request.verb == verb:
            raise KeyError("strange")

    monkeypatch.setattr(engine, "_perform", failing)
    posted = message("before", "theirs")
    other.say(1, "publish", [posted])
    other.say(2, "receive", ["theirs"], 1, 60.0)
    other.say(3, "purge", "q", False, None)
    stranger.say(2, verb)
    other.say(4, "depth", "theirs")
    await auntil(lambda: len(other.answers) == 4, "every answer")
    assert sorted(other.answers) == [(1, None), (2, None), (3, None), (4, None)]
    assert "KeyError" in str(stranger.answers[-1])
    assert stranger.aborted
    assert not other.aborted
    assert f'"stranger" (client) is dropped at its request "{verb}"' in caplog.text
    await serves(broker)


async def test_a_purge_at_which_the_engine_fails_ends_with_its_client(
    engine: Engine, broker: FileBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: Any) -> None:
        raise KeyError("strange")

    monkeypatch.setattr(Endings, "purge", failing)
    stranger = Stranger(engine)
    stranger.say(1, "purge", "theirs", True, None)
    await auntil(lambda: stranger.aborted, "the client to be dropped")
    await serves(broker)
    await broker.publish([message("again", "theirs")])


async def test_a_client_in_the_engines_own_process_that_is_dropped_connects_again(
    engine: Engine, broker: FileBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = iter([KeyError("strange")])
    depth = engine.verbs.depth

    def failing(*arguments: Any) -> Any:
        if failure := next(failures, None):
            raise failure
        return depth(*arguments)

    monkeypatch.setattr(engine.verbs, "depth", failing, raising=False)
    with pytest.raises(BrokerError, match="strange"):
        await broker.depth("q")
    await serves(broker)


SPECIAL = ("hello", "receive", "cancel", "result", "purge", "ping", "overview")


class Talk:
    """Random frames, most of them nearly right."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._verbs = [*DECODERS, *SPECIAL, "nothing", "", "__init__"] + [
            "receive",
            "hello",
            "cancel",
            "purge",
            "publish",
            "settle",
        ] * 4

    def words(self, others: list[int]) -> tuple[Any, ...]:
        """Return a serial, a verb and its arguments; `others` are tags that somebody else may hold."""
        chance = self._chance
        verb = chance.choice(self._verbs)
        arguments = self._arguments(verb, others)
        if chance.random() < 0.1:
            arguments = arguments[: chance.randrange(len(arguments) + 1)]
        if chance.random() < 0.1:
            arguments = [*arguments, self._junk()]
        if arguments and chance.random() < 0.1:
            arguments[chance.randrange(len(arguments))] = self._junk()
        return (chance.choice((1, 1, 2, 3, chance.randrange(50), -1, 2**63)), verb, *arguments)

    def _junk(self) -> Any:
        return self._chance.choice((None, -1, 2**64 - 1, 1e308, float("nan"), "", "\0", "q", b"\xff", [], {}, [[]], True, {"a": {}}))

    def _queue(self) -> str:
        return self._chance.choice(("q", "q", "theirs", "temporary", "none", "\0"))

    def _posted(self) -> tuple[Any, ...]:
        chance = self._chance
        identity = f"m{chance.randrange(5)}"
        options = Options(
            key=chance.choice((None, "k", "l")), merges=chance.random() < 0.3, unique=chance.choice((None, "u")),
            tracked=chance.random() < 0.5, idempotency_key=chance.choice((None, None, "i")), replaces=chance.choice((None, None, 7)),
        )  # fmt: skip
        delay = chance.choice((0.0, 0.0, 0.001, 3600.0, -1.0))
        shown = chance.choice((None, options))
        return (Envelope(identity, "t", b"{}"), self._queue(), "", chance.choice((0, 5, -5)), delay, shown)

    def _settlement(self, others: list[int]) -> tuple[Any, ...]:
        chance = self._chance
        tag = chance.choice((*others, 1, 2, 3, 4, 5, 6, 7, 8, -1))
        return chance.choice(
            (
                ("ack", tag, [self._posted()] if chance.random() < 0.3 else [], None, True),
                ("retry", tag, chance.choice((0.0, 0.001, 9.0)), chance.random() < 0.5, chance.choice((None, "why")), None),
                ("dead", tag, "why", None),
            )
        )

    def _arguments(self, verb: str, others: list[int]) -> list[Any]:
        chance = self._chance
        told = {"queues": chance.choice((["q"], 5, "q")), "suspects": chance.choice((True, False, 1)), "table": chance.choice(("x", 5))}
        held = [(self._queue(), chance.choice((*others, 1, 2, 3, -1))) for _ in range(chance.randrange(4))]
        hello = {"protocol": chance.choice((PROTOCOL, PROTOCOL, 99)), "name": chance.choice(("a", "b", "")), "info": told, "held": held}
        shapes: dict[str, list[Any]] = {
            "hello": [hello],
            "receive": [
                [self._queue() for _ in range(chance.randrange(3))],
                chance.choice((0, 1, 5, -1)),
                chance.choice((0.0, 0.001, 60.0)),
            ],
            "cancel": [chance.choice((1, 2, 3))],
            "purge": [self._queue(), chance.random() < 0.3, None],
            "publish": [[self._posted() for _ in range(chance.randrange(4))]],
            "settle": [[self._settlement(others) for _ in range(chance.randrange(4))]],
            "result": [f"m{chance.randrange(5)}", chance.choice((0.0, 0.001, 60.0))],
            "subscribe": [bind("temporary")],
            "declare": [Topology(queues=(bind(chance.choice(("q", "theirs", "new"))),))],
            "look": [self._queue(), chance.choice(("ready", "running", "delayed", "dead", "x")), [b"m"][: chance.randrange(2)], "", 5],
            "retry_letters": [[1, 2, 3]],
            "discard_letters": [[1, 2]],
        }
        return shapes.get(verb, [self._queue(), f"m{chance.randrange(5)}", 1][: chance.randrange(4)])


@pytest.mark.timeout(120)
async def test_no_sequence_of_frames_of_one_client_keeps_another_from_being_served(
    engine: Engine, broker: FileBroker, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    chance = random.Random(11)
    talk = Talk(chance)
    for number in range(SEQUENCES):
        strangers = [Stranger(engine) for _ in range(chance.choice((1, 1, 2)))]
        said: list[Any] = []
        for _ in range(chance.randrange(1, 12)):
            stranger = chance.choice(strangers)
            said.append(talk.words(list(engine.ledger.turn.claims)))
            stranger.say(*said[-1])
            if chance.random() < 0.2:
                await asyncio.sleep(0)
            if chance.random() < 0.05:
                engine.detach(stranger.connection)
        try:
            await asyncio.wait_for(serves(broker, number), SERVED_WITHIN)
        except (BrokerError, TimeoutError) as error:
            pytest.fail(f"after {said} in sequence {number} nobody is served: {error!r}")
        for stranger in strangers:
            engine.detach(stranger.connection)
    await serves(broker, SEQUENCES)
    assert not engine.stopped.done()
