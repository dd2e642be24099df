"""Random lives of messages, compared step by step with a model in plain Python.

`CHAPPE_HYPOTHESIS=many` runs it for long.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections import defaultdict
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Final, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from chappe.engines.contract.broker import Ack, Consumer, Dead, Delivery, Depth, Retry
from chappe.errors import Rejected
from chappe.messages.envelope import Envelope, Options, Publication
from chappe.messages.topology import Topology, bind

from .conftest import DISTRIBUTED, ENGINES, POSTGRES
from .distributed import DistributedEngine
from .engine import EngineUnderTest, Peer
from .postgres import PostgresEngine

Result = TypeVar("Result")

QUEUE: Final = "q"
PEERS: Final = 2
PREFETCH: Final = 4
MANY: Final = os.environ.get("CHAPPE_HYPOTHESIS") == "many"
PROFILE: Final = settings(
    max_examples=2000 if MANY else 30,
    stateful_step_count=100 if MANY else 50,
    deadline=None,
    print_blob=True,
    derandomize=not MANY,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
)
FAR: Final = settings(
    PROFILE, max_examples=200 if MANY else 2, phases=[Phase.generate]
)  # over two servers a step takes a tenth of a second
SHORT: Final = 1000.0
CALM: Final = 7  # steps between two disturbances, so that lives get somewhere
PRIORITY_OF: Final = {"a": 0, "b": 1}


@dataclass(eq=False)
class Life:
    """What the model knows of one message; `order` is its place among those of its priority."""

    id: str
    body: str
    priority: int
    order: int
    key: str | None = None
    merges: bool = False
    unique: str | None = None
    state: str = "ready"
    due: float = 0.0
    attempt: int = 0
    started: bool = False
    holder: bool = False
    peer: int | None = None
    delivery: Delivery | None = None
    errors: list[str] = field(default_factory=list)

    @property
    def place(self) -> tuple[int, int]:
        return (-self.priority, self.order)


def tag(life: Life) -> int:
    """Return the tag under which a running message is out."""
    assert life.delivery is not None
    return life.delivery.tag


class Lives(RuleBasedStateMachine):
    """One queue, two consumers, any number of deaths."""

    make: Callable[[Path], EngineUnderTest]
    restarts: bool = True
    keeps_unique: bool = True  # whether a letter that is retried has its unique key again

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
        self.loop = asyncio.new_event_loop()
        self.engine = type(self).make(Path(self.folder.name))
        self.lives: list[Life] = []
        self.gone: list[Delivery] = []
        self.calm = 0
        self.count = 0
        self.orders = 0
        self.done = self.purged = self.discarded = self.merged = self.published = 0
        self.held: dict[str, Life] = {}
        self.pending: dict[str, Life] = {}
        self.seen: dict[str, int] = defaultdict(int)
        self.watcher: Peer
        self.peers: list[Peer] = []
        self.consumers: list[Consumer] = []
        self.stacks: list[AsyncExitStack] = []

    # --- the engine's side

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        return self.loop.run_until_complete(work)

    @initialize()
    def begin(self) -> None:
        async def begin() -> None:
            await self.engine.start()
            peer = await self.engine.connect()
            await peer.broker.declare(Topology(queues=(bind(QUEUE),)))
            self.watcher = peer
            for _ in range(PEERS):
                await self.join(len(self.peers))

        self.run(begin())

    async def join(self, number: int) -> None:
        peer, stack = await self.engine.connect(), AsyncExitStack()
        consumer = await stack.enter_async_context(peer.broker.consume([QUEUE], prefetch=PREFETCH))
        self.peers[number : number + 1], self.consumers[number : number + 1], self.stacks[number : number + 1] = [peer], [consumer], [stack]

    def teardown(self) -> None:
        async def end() -> None:
            for stack in self.stacks:
                await stack.aclose()
            await self.engine.close()
            await asyncio.sleep(0)

        self.run(end())
        self.loop.close()
        self.folder.cleanup()

    # --- the model's side

    def of(self, state: str) -> list[Life]:
        return [life for life in self.lives if life.state == state]

    def next_order(self) -> int:
        self.orders += 1
        return self.orders

    def promote(self) -> None:
        now = self.engine.now()
        for life in sorted((x for x in self.of("delayed") if x.due <= now), key=lambda x: (x.due, x.order)):
            life.state = "ready"
            if not life.holder:
                life.order = self.next_order()

    def lendable(self) -> list[Life]:
        """Return what may be lent now, in order."""
        chosen: list[Life] = []
        taken = {key for key, life in self.held.items() if life.state != "ready"}
        for life in sorted(self.of("ready"), key=lambda x: x.place):
            if life.key is not None:
                holder = self.held.get(life.key)
                if life.key in taken or (holder is not None and holder is not life):
                    continue
                taken.add(life.key)
            chosen.append(life)
        return chosen

    def give_back(self, life: Life) -> None:
        assert life.delivery is not None
        self.gone.append(life.delivery)
        life.state, life.peer, life.delivery = "ready", None, None

    def end(self, life: Life) -> None:
        self.lives.remove(life)
        self.release(life)

    def release(self, life: Life) -> None:
        if life.delivery is not None:
            self.gone.append(life.delivery)
        life.peer, life.delivery, life.holder = None, None, False
        if life.key is not None and self.held.get(life.key) is life:
            del self.held[life.key]

    def forget_peers(self, numbers: range | tuple[int, ...]) -> None:
        for life in self.of("running"):
            if life.peer in numbers:
                self.give_back(life)

    def new(self, priority: int, delay: float, key: str | None, merges: bool, unique: str | None) -> tuple[Publication, Life]:
        self.count += 1
        identity = f"m{self.count}"
        merges = merges and key is not None
        if key is not None:  # whether the key or the priority decides is not promised, so a key has one priority
            priority = PRIORITY_OF[key]
            key = f"merging {key}" if merges else key
        options = Options(key=key, merges=merges, unique=unique) if key or unique else None
        publication = Publication(Envelope(identity, "t", identity.encode()), QUEUE, "", priority, delay, options)
        life = Life(identity, identity, priority, 0, key, merges, unique)
        if delay > 0:
            life.state, life.due = "delayed", self.engine.now() + delay
        return publication, life

    def expected(self, life: Life) -> tuple[str, str]:
        """Tell how a publication must be answered: the outcome and the id."""
        if life.unique is not None and (owner := next((x for x in self.lives if x.unique == life.unique and x.state != "dead"), None)):
            return "duplicate", owner.id
        if life.merges and life.key in self.pending:
            return "pending", self.pending[life.key].id
        return "stored", life.id

    def store(self, life: Life) -> None:
        self.published += 1
        life.order = self.next_order()
        self.lives.append(life)
        if life.merges:
            assert life.key is not None
            self.pending[life.key] = life

    # --- rules

    wishes: ClassVar[dict[str, st.SearchStrategy[Any]]] = {
        "priority": st.sampled_from([0, 0, 0, 1, -1]),
        "delay": st.sampled_from([0.0, 0.0, 0.0, SHORT / 2, SHORT]),
        "key": st.sampled_from([None, None, "a", "b"]),
        "merges": st.booleans(),
        "unique": st.sampled_from([None, None, None, "u", "v"]),
    }

    @rule(wishes=st.fixed_dictionaries(wishes))
    def publish(self, wishes: dict[str, Any]) -> None:
        publication, life = self.new(**wishes)
        outcome, identity = self.expected(life)
        (receipt,) = self.run(self.watcher.broker.publish([publication]))
        assert (receipt.outcome, receipt.id) == (outcome, identity)
        if outcome == "stored":
            self.store(life)
        elif outcome == "pending":
            assert receipt.pending is not None and receipt.version is not None
            assert receipt.pending.body.decode() == self.pending[str(life.key)].body
            self.merge(publication, receipt.version)

    def merge(self, publication: Publication, version: int) -> None:
        options = publication.options
        assert options is not None and options.key is not None
        target = self.pending[options.key]
        body = f"{target.body}+{publication.envelope.id}"
        envelope = Envelope(target.id, "t", body.encode())
        for wrong in (version - 1, version + 1):
            stale = Publication(envelope, QUEUE, "", 0, 0.0, Options(key=options.key, merges=True, replaces=wrong))
            assert self.run(self.watcher.broker.publish([stale]))[0].outcome == "pending"
        right = Publication(envelope, QUEUE, "", 0, 0.0, Options(key=options.key, merges=True, replaces=version))
        (receipt,) = self.run(self.watcher.broker.publish([right]))
        assert (receipt.outcome, receipt.id) == ("merged", target.id)
        target.body = body
        self.published += 1
        self.merged += 1

    @rule(
        many=st.lists(
            st.fixed_dictionaries({"priority": st.sampled_from([0, 1]), "key": st.sampled_from([None, "a", "b"])}), min_size=2, max_size=6
        )
    )
    def publish_many(self, many: list[dict[str, Any]]) -> None:
        made = [self.new(delay=0.0, merges=False, unique=None, **wishes) for wishes in many]
        receipts = self.run(self.watcher.broker.publish([p for p, _ in made]))
        assert [(r.id, r.outcome) for r in receipts] == [(life.id, "stored") for _, life in made]
        for _, life in made:
            self.store(life)

    @rule(number=st.integers(0, PEERS - 1), limit=st.sampled_from([1, 2, 5, 5]))
    def receive(self, number: int, limit: int) -> None:
        self.promote()
        room = PREFETCH - sum(1 for life in self.of("running") if life.peer == number)
        able = self.lendable()
        wanted = able[: max(0, min(limit, room))]
        deliveries = self.run(self.take(self.consumers[number], limit, len(wanted)))
        if self.engine.keeps_order_of_losses:
            fresh = [life.id for life in wanted]
            assert sorted(d.envelope.id for d in deliveries) == sorted(fresh)
            first = [d.envelope.id for d in deliveries if self.seen[d.envelope.id] == 0]
            assert first == [i for i in fresh if self.seen[i] == 0]
        assert len(deliveries) == len(wanted)
        for delivery in deliveries:
            life = next(x for x in able if x.id == delivery.envelope.id)
            assert delivery.envelope.body.decode() == life.body
            assert delivery.attempt == life.attempt + 1 >= self.seen[life.id]
            self.seen[life.id] = delivery.attempt
            life.state, life.peer, life.delivery, life.started, life.holder = "running", number, delivery, True, False
            if life.key is not None:
                self.held[life.key] = life
                if self.pending.get(life.key) is life:
                    del self.pending[life.key]

    async def take(self, consumer: Consumer, limit: int, count: int) -> list[Delivery]:
        """Receive what must be there, and see whether more comes."""
        until = self.loop.time() + self.engine.patience
        got = await consumer.receive(limit, self.engine.quiet)
        while len(got) < count and self.loop.time() < until:
            got += await consumer.receive(limit - len(got), self.engine.quiet)
        if 0 < len(got) < limit:
            got += await consumer.receive(limit - len(got), self.engine.quiet)
        return got

    def settle(self, life: Life, settlement: Ack | Retry | Dead) -> list[Any]:
        assert life.peer is not None
        return self.run(self.consumers[life.peer].settle([settlement]))

    @precondition(lambda self: self.of("running"))
    @rule(data=st.data())
    def ack(self, data: st.DataObject) -> None:
        self.acked(data.draw(st.sampled_from(self.of("running"))))

    def acked(self, life: Life) -> None:
        assert self.settle(life, Ack(tag(life))) == []
        self.end(life)
        self.done += 1

    @precondition(lambda self: self.of("running"))
    @rule(data=st.data(), wishes=st.fixed_dictionaries(wishes), unroutable=st.booleans())
    def ack_then(self, data: st.DataObject, wishes: dict[str, Any], unroutable: bool) -> None:
        life = data.draw(st.sampled_from(self.of("running")))
        plain, other = self.new(0, 0.0, None, False, None)
        publication, new = self.new(**wishes)
        outcome, _ = self.expected(new)
        nowhere = Publication(publication.envelope, "missing")
        refusals = self.settle(life, Ack(tag(life), (plain, publication, nowhere) if unroutable else (plain, publication)))
        if unroutable or outcome == "pending":
            assert [r.delivery for r in refusals] == [tag(life)]
            assert refusals[0].why in (("unroutable", "pending") if unroutable else ("pending",))
            return
        assert refusals == []
        self.store(other)
        if outcome == "stored":
            self.store(new)
        self.end(life)
        self.done += 1

    @precondition(lambda self: self.of("running"))
    @rule(data=st.data(), after=st.sampled_from([0.0, 0.0, SHORT / 2, SHORT]), counted=st.booleans(), error=st.sampled_from([None, "boom"]))
    def retry(self, data: st.DataObject, after: float, counted: bool, error: str | None) -> None:
        self.retried(data.draw(st.sampled_from(self.of("running"))), after, error, counted=counted)

    def retried(self, life: Life, after: float, error: str | None, *, counted: bool) -> None:
        assert self.settle(life, Retry(tag(life), after, counted, error)) == []
        if error is not None:
            life.errors.append(error)
        life.attempt += counted
        self.give_back(life)
        if after > 0:
            life.state, life.due, life.holder = "delayed", self.engine.now() + after, life.key is not None

    @precondition(lambda self: self.of("running"))
    @rule(data=st.data())
    def dead_letter(self, data: st.DataObject) -> None:
        self.died(data.draw(st.sampled_from(self.of("running"))))

    def died(self, life: Life) -> None:
        assert self.settle(life, Dead(tag(life), "no")) == []
        life.state = "dead"
        life.attempt += 1
        self.release(life)

    @precondition(lambda self: self.of("ready"))
    @rule(
        number=st.integers(0, PEERS - 1),
        ends=st.lists(st.sampled_from(["ack", "ack", "retry", "uncounted", "later", "dead"]), min_size=1, max_size=PREFETCH),
    )
    def work(self, number: int, ends: list[str]) -> None:
        """Receive and end at once, so that lives get somewhere."""
        self.receive(number, len(ends))
        for life, end in zip([x for x in self.of("running") if x.peer == number], ends, strict=False):
            if end == "ack":
                self.acked(life)
            elif end == "dead":
                self.died(life)
            else:
                self.retried(life, SHORT / 2 if end == "later" else 0.0, end, counted=end != "uncounted")

    @precondition(lambda self: self.gone)
    @rule(data=st.data(), number=st.integers(0, PEERS - 1))
    def settle_too_late(self, data: st.DataObject, number: int) -> None:
        delivery = data.draw(st.sampled_from(self.gone[-10:]))
        if any(life.delivery is not None and life.delivery.tag == delivery.tag for life in self.lives):
            return
        refusals = self.run(self.consumers[number].settle([Ack(delivery.tag, (Publication(delivery.envelope, QUEUE),))]))
        assert [(r.delivery, r.why) for r in refusals] == [(delivery.tag, "stale")]

    @precondition(lambda self: self.calm >= CALM)
    @rule(kind=st.sampled_from(["leave", "vanish", "vanish", "restart", "purge"]), number=st.integers(0, PEERS - 1))
    def disturb(self, kind: str, number: int) -> None:
        self.calm = 0
        if kind == "restart" and self.restarts:
            self.restart()
        elif kind == "purge":
            self.purge()
        else:
            self.leave(number, polite=kind == "leave")

    def leave(self, number: int, *, polite: bool) -> None:
        async def leave() -> None:
            if polite:
                await self.stacks[number].aclose()
                await self.peers[number].close()
            else:
                await self.peers[number].vanish()
                await self.stacks[number].aclose()
            await self.join(number)

        self.run(leave())
        self.forget_peers((number,))

    def restart(self) -> None:
        async def restart() -> None:
            await self.engine.restart()
            for stack in self.stacks:
                await stack.aclose()
            self.watcher = await self.engine.connect()
            for number in range(PEERS):
                await self.join(number)

        self.run(restart())
        self.forget_peers(range(PEERS))
        self.held = {life.key: life for life in self.lives if life.holder and life.key is not None}

    @rule(seconds=st.sampled_from([SHORT / 10, SHORT / 2, SHORT]))
    def advance(self, seconds: float) -> None:
        self.run(self.engine.advance(seconds))

    def purge(self) -> None:
        doomed = self.of("ready") + self.of("delayed")
        assert self.run(self.watcher.broker.purge(QUEUE)) == len(doomed)
        for life in doomed:
            self.end(life)
        self.pending.clear()
        self.purged += len(doomed)

    @precondition(lambda self: self.of("dead"))
    @rule(data=st.data(), again=st.booleans())
    def decide_on_a_letter(self, data: st.DataObject, again: bool) -> None:
        letter = data.draw(st.sampled_from(self.run(self.watcher.store.letters())))
        life = next(x for x in self.of("dead") if x.id == letter.envelope.id)
        assert (letter.attempts, [error for _, _, error in letter.history], letter.envelope.body.decode()) == (
            life.attempt,
            life.errors,
            life.body,
        )
        store = self.watcher.store
        if again and self.keeps_unique and self.expected(life)[0] == "duplicate":
            with pytest.raises(Rejected):
                self.run(store.retry_letters([letter.number]))
            return
        assert self.run((store.retry_letters if again else store.discard_letters)([letter.number])) == 1
        if again:
            life.unique = life.unique if self.keeps_unique else None
            life.state, life.attempt, life.errors, life.order = "ready", 0, [], self.next_order()
            self.seen[life.id] = 0
        else:
            self.lives.remove(life)
            self.discarded += 1

    # --- what always holds

    @invariant()
    def depth_is_that_of_the_model(self) -> None:
        if not self.peers:
            return
        self.calm += 1
        self.promote()
        # A verb is answered before the engine looks at what is due: the first look has it promote.
        self.run(self.watcher.broker.depth(QUEUE))
        wanted = Depth(**{state: len(self.of(state)) for state in ("ready", "running", "delayed", "dead")})
        until = self.loop.time() + self.engine.patience
        while (found := self.run(self.watcher.broker.depth(QUEUE))) != wanted and self.loop.time() < until:
            pass
        assert found == wanted

    @invariant()
    def nothing_is_lost_or_doubled(self) -> None:
        assert self.published == self.done + self.purged + self.discarded + self.merged + len(self.lives)

    @invariant()
    def one_runs_and_one_is_pending_of_a_key(self) -> None:
        keys = [life.key for life in self.of("running") if life.key is not None]
        assert len(keys) == len(set(keys))
        waiting = [life.key for life in self.lives if life.merges and not life.started]
        assert len(waiting) == len(set(waiting))


@pytest.mark.timeout(7200 if MANY else 400)
@pytest.mark.parametrize("name", ["file", POSTGRES, DISTRIBUTED])
def test_random_lives_agree_with_the_model(name: str, request: pytest.FixtureRequest) -> None:
    make: Callable[[Path], EngineUnderTest] = ENGINES["file"]
    if name == DISTRIBUTED:
        servers = request.getfixturevalue("shared_engine_servers")
        make = lambda _: DistributedEngine(servers)  # noqa: E731
    elif name == POSTGRES:
        url = request.getfixturevalue("alone").url
        make = lambda _: PostgresEngine(url)  # noqa: E731
    far = name != "file"
    machine = type(f"Lives_{name}", (Lives,), {"make": staticmethod(make), "restarts": not far, "keeps_unique": name != DISTRIBUTED})
    run_state_machine_as_test(machine, settings=FAR if far else PROFILE)
