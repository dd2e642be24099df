"""Batches: all commands or none, counted by how they ended, and one command more when all have."""

from collections.abc import Iterator

import pytest

from chappe import App, Command, Reject, Retry
from chappe.batches import MOST, Batches, WatchBatch
from chappe.errors import DefinitionError, InvalidMessage, NotFound
from chappe.testing import Trial, testing


class Fetch(Command, queue="fetches", retry=Retry(2, delay=1.0)):
    number: int


class Tell(Command, queue="tells"):
    user: str


class Inline(Command, inline=True):
    number: int


class Scene:
    def __init__(self) -> None:
        self.app = App("reader")
        self.batches = Batches(self.app)
        self.told = list[str]()
        self.app.handles(Fetch)(self.fetch)
        self.app.handles(Tell)(self.tell)
        self.app.handles(Inline)(self.inline)

    def fetch(self, command: Fetch) -> None:
        if command.number % 10 == 9:
            raise Reject("gone")

    def tell(self, command: Tell) -> None:
        self.told.append(command.user)

    def inline(self, command: Inline) -> None: ...

    def state(self, batch: str):
        return self.app.wait_for(self.batches.state(batch))


@pytest.fixture
def scene() -> Scene:
    return Scene()


@pytest.fixture
def trial(scene: Scene) -> Iterator[Trial]:
    with testing(scene.app) as t:
        yield t


def test_w17_a_batch_is_counted_from_its_first_command_to_its_last(scene: Scene, trial: Trial) -> None:
    batch = scene.batches.send([Fetch(number=n) for n in range(100)])
    began = scene.state(batch)
    assert (began.total, began.waiting, began.done, began.dead, began.is_over) == (100, 100, 0, 0, False)
    assert began.left(began.began_at + 5.0) is None
    trial.drain()
    over = scene.state(batch)
    assert (over.waiting, over.done, over.dead, over.ended, over.is_over) == (0, 90, 10, 100, True)
    assert over.left(over.began_at + 5.0) == 0.0


def test_what_follows_is_sent_once_when_all_have_ended(scene: Scene, trial: Trial) -> None:
    scene.batches.send([Fetch(number=1), Fetch(number=2)], then=Tell(user="ada"), delay=100.0)
    trial.drain()
    assert scene.told == []
    trial.drain(to_the_end=True)
    assert scene.told == ["ada"]
    assert trial.dead == []


def test_an_end_that_was_there_before_anybody_looked_is_seen(scene: Scene, trial: Trial) -> None:
    scene.batches.send([Fetch(number=9)], then=Tell(user="bo"))
    trial.drain(to_the_end=True)
    assert scene.told == ["bo"]


def test_a_batch_whose_dead_letter_is_retried_waits_again(scene: Scene, trial: Trial) -> None:
    batch = scene.batches.send([Fetch(number=9)])
    trial.drain()
    assert scene.state(batch).dead == 1

    async def retry() -> None:
        store = (await scene.app.connection()).store
        await store.retry_letters([letter.number for letter in await store.letters()])

    scene.app.wait_for(retry())
    assert scene.state(batch).waiting == 1


def test_what_is_no_batch_is_refused(scene: Scene, trial: Trial) -> None:
    for commands in ([], [Fetch] * 2, ["x"]):
        with pytest.raises(InvalidMessage):
            scene.batches.send(commands)  # type: ignore[arg-type]
    with pytest.raises(DefinitionError, match="inline"):
        scene.batches.send([Fetch(number=1), Inline(number=1)])
    with pytest.raises(InvalidMessage, match=f"1 to {MOST} commands"):
        scene.batches.send([Fetch(number=0)] * (MOST + 1))
    assert trial.depth("fetches") == (0, 0)
    for identity in ("", "import", "01a228e0-3375-713b-b27a-48e416fdffe8", "01a228e0-3375-713b-b27a-48e416fdffe8.0", "%"):
        with pytest.raises(NotFound, match="is no batch"):
            scene.state(identity)
    with pytest.raises(NotFound, match="is not known"):
        scene.state("01a228e0-3375-713b-b27a-48e416fdffe8.7")


async def test_asynchronous_code_awaits_the_same(scene: Scene) -> None:
    async with testing(scene.app) as t:
        batch = await scene.batches.asend([Fetch(number=1)], then=Tell(user="cy"))
        t.drain(to_the_end=True)
        assert (await scene.batches.state(batch)).is_over
        assert scene.told == ["cy"]
        assert len(t.sent(WatchBatch)) == 1
        await scene.app.aclose()
