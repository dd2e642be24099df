"""What sessions ask each other through the store beside RabbitMQ: how much each holds, and that it should look again."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from typing import Final

import msgspec
from msgspec import Struct

from chappe.engines.rabbitmq.kept import Presence
from chappe.engines.rabbitmq.tasks import Tasks

_PATIENCE: Final = 1.0  # seconds for the answer of a process that may be frozen
_MOST: Final = 6000  # bytes about queues in one question, and in its answer: the store carries 8,000
_EACH: Final = 20  # bytes of an answer about a queue, beside its name


class Question(Struct, frozen=True, tag=True):
    """What one session asks of everybody: how much they hold of queues; `let_go` wants back what waits, `cancel` names one that may run."""

    id: str
    session: int
    queues: tuple[str, ...] = ()
    let_go: bool = False
    cancel: str = ""


class Part(Struct, frozen=True, array_like=True):
    """What one session holds of a queue of RabbitMQ's."""

    out: int = 0
    waiting: int = 0


class Held(Struct, frozen=True, tag=True):
    """What one session holds; `holding` is all that is out, and `cancels` says that it ends what it was asked to cancel."""

    id: str
    session: int
    queues: dict[str, Part] = {}
    holding: int = 0
    cancels: bool = False


_decode: Final = msgspec.json.Decoder(Question | Held).decode


class Control:
    """Asks others, and answers them once something may be held here."""

    def __init__(self, presence: Presence, answer: Callable[[Question], Awaitable[Held]]) -> None:
        self._presence = presence
        self._answer = answer
        self._asked: dict[str, asyncio.Queue[Held]] = {}
        self._tasks = Tasks("asking others")
        self._answers = False
        presence.on_said = self._heard

    def begin(self) -> None:
        """Answer others from now on: this session holds something."""
        self._answers = True

    async def ask(self, question: Question, sessions: Collection[int]) -> list[Held]:
        """Return the answers of these sessions; who is frozen answers nothing."""
        if not sessions:
            return []
        answers = self._asked[question.id] = asyncio.Queue()
        missing, found = set(sessions), list[Held]()
        try:
            await self._presence.say(msgspec.json.encode(question).decode())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_PATIENCE):
                    while missing:
                        held = await answers.get()
                        if held.session in missing:
                            missing.discard(held.session)
                            found.append(held)
        finally:
            del self._asked[question.id]
        return found

    def _heard(self, said: str) -> None:
        with contextlib.suppress(msgspec.MsgspecError):  # whoever else says something here
            found = _decode(said)
            if isinstance(found, Held):
                if found.id in self._asked:
                    self._asked[found.id].put_nowait(found)
            elif self._answers and found.id not in self._asked:
                self._tasks.begin(self._reply(found))

    async def _reply(self, question: Question) -> None:
        held = await self._answer(question)
        await self._presence.say(msgspec.json.encode(held).decode(), question.session)

    async def close(self) -> None:
        """Ask and answer nothing more."""
        await self._tasks.close()


def pieces(queues: Sequence[str]) -> Iterator[list[str]]:
    """Divide queues into as many as can be asked for at once."""
    piece, room = list[str](), _MOST
    for queue in queues:
        size = len(msgspec.json.encode(queue)) + _EACH
        if size > room and piece:
            yield piece
            piece, room = [], _MOST
        piece.append(queue)
        room -= size
    yield piece
