"""What is dead or waits for another attempt by its cause: one type, queue, class of error and place in the code are one failure."""

from __future__ import annotations

import hashlib
import re
import time
from array import array
from collections.abc import Callable, Mapping, Sequence
from typing import Final, cast

import msgspec
from msgspec import Struct

from chappe.engines.contract.fleet import Desired, QueueStatus
from chappe.engines.contract.letters import Letter
from chappe.engines.contract.store import Store
from chappe.errors import InvalidMessage, NotFound, Rejected
from chappe.failures import first_line
from chappe.messages.codec import MSGPACK, decode_plain, encode_json

FAILURE: Final = "failure:"  # and a fingerprint: what somebody has said of it in the desired state
RESOLVED: Final = "resolved"  # until it happens again
IGNORED: Final = "ignored"
OPEN: Final = "open"
_PAGE: Final = 200  # letters that are read at once: each has a body
_MOST_WAITING: Final = 10_000  # messages that wait for another attempt and are known
_HOUR: Final = 3600
_HOURS: Final = 7 * 24
_REST: Final = 20  # times as long as reading everything again took, nothing is read again
_TRACE: Final = "Traceback (most recent call last)"
_PLACE: Final = re.compile(r"^  at (\S+) line (\d+)(?: \(in (\S+)\))?(?:: (.*))?$", re.MULTILINE)
_CLASS: Final = re.compile(r"([A-Za-z_]\w*)(?:: |$)", re.MULTILINE)
_VARYING: Final = re.compile(
    r"""(?P<quoted>"[^"]*"|'[^']*'|«[^»]*»)|[0-9a-f]{8}-[0-9a-f-]{27}|\b0x[0-9a-f]+|\b(?=\w*\d)[0-9a-f]{8,}\b|\d+(?:[.,:]\d+)*""",
    re.IGNORECASE,
)


class Cause(Struct, frozen=True):
    """Why a letter is dead, without what differs from one letter to the next; `handler` and `place` are empty where no code is to blame."""

    type: str
    queue: str
    error: str
    handler: str = ""
    place: str = ""
    code: str = ""

    @property
    def fingerprint(self) -> str:
        """The name of this cause: it stays when lines above its place are added, or the text of its message varies."""
        return hashlib.blake2s(msgspec.json.encode(self), digest_size=8).hexdigest()


def cause_of(kind: str, queue: str, reason: str, error: str | None) -> Cause:
    """Return the cause that the reason and the error of a dead letter tell.

    Where an error has a place in the code, its class and that place are the cause; else its text, without numbers, ids and what is quoted.
    """
    text = error or ""
    summary, place = first_line(text) or reason, _PLACE.search(text)
    if place is None:
        return Cause(kind, queue, _VARYING.sub(lambda found: "'…'" if found["quoted"] else "…", summary))
    named = _CLASS.match(summary) if _TRACE in text else None  # what a verdict says begins with no class
    member = _CLASS.match(text, place.end() + 3) if summary.endswith(("sub-exception)", "sub-exceptions)")) else None
    called = ": ".join(found[1] for found in (named, member) if found is not None)
    return Cause(kind, queue, called, place[3] or place[1], place[1], place[4] or "")


class Group(Struct):
    """The letters of one cause: `line` is where its place was last, `text` what its last error said.

    `waiting` is how many other messages have failed of it and wait for another attempt.
    """

    cause: Cause
    line: int = 0
    text: str = ""
    first_at: float = 0.0
    last_at: float = 0.0
    numbers: array[int] = msgspec.field(default_factory=lambda: array("q"))
    hours: dict[int, int] = msgspec.field(default_factory=dict[int, int])
    waiting: int = 0

    def add(self, letter: Letter) -> None:
        """Count one more letter; they come in the order of their numbers."""
        self.first_at = min(self.first_at, letter.died_at) if self.numbers else letter.died_at
        if letter.died_at >= self.last_at:
            place = _PLACE.search(letter.error or "")
            self.last_at, self.line, self.text = letter.died_at, int(place[2]) if place else 0, first_line(letter.error) or letter.reason
        self.numbers.append(letter.number)
        hour = int(letter.died_at // _HOUR)
        self.hours[hour] = self.hours.get(hour, 0) + 1

    @property
    def place(self) -> str:
        """Where in the code its last letter failed, or nothing."""
        return f"{self.cause.place}:{self.line}" if self.cause.place else ""

    def occurrences(self) -> list[tuple[float, int]]:
        """Return how many died in each hour of the week before the last one did."""
        last = int(self.last_at // _HOUR)
        return [(hour * float(_HOUR), count) for hour, count in sorted(self.hours.items()) if hour > last - _HOURS]

    def state(self, said: Desired | None) -> str:
        """Return what was said of it; what was resolved and happened again is open."""
        if said is None or said.value not in (RESOLVED, IGNORED):
            return OPEN
        return OPEN if said.value == RESOLVED and self.last_at > said.at else said.value


class _Waiting(Struct):
    """Messages that have failed and wait for another attempt, by their cause, and by queue and id."""

    groups: dict[str, Group] = msgspec.field(default_factory=dict[str, Group])
    known: dict[tuple[str, str], tuple[Group, int]] = msgspec.field(default_factory=dict[tuple[str, str], tuple[Group, int]])

    async def read(self, store: Store) -> None:
        after = 0
        while len(self.known) < _MOST_WAITING and (letters := await store.failing(after=after, limit=_PAGE)):
            for letter in letters:
                group = _group_of(self.groups, letter)
                group.add(letter)
                self.known[letter.queue, letter.envelope.id] = group, letter.number
            after = letters[-1].number

    def end(self, letter: Letter) -> None:
        """Have a message that died be known as a dead letter only."""
        group, number = self.known.pop((letter.queue, letter.envelope.id), (None, 0))
        if group is not None:
            group.numbers.remove(number)

    def mark(self, groups: dict[str, Group]) -> None:
        """Have the groups of dead letters tell how many wait beside them."""
        for group in groups.values():
            group.waiting = 0
        for fingerprint, found in self.groups.items():
            group = groups.setdefault(fingerprint, Group(found.cause))
            group.waiting = len(found.numbers)
            group.first_at = min(group.first_at, found.first_at) if group.last_at else found.first_at
            if found.numbers and found.last_at > group.last_at:
                group.last_at, group.line, group.text = found.last_at, found.line, found.text


class _Letters(Struct):
    """What was read so far, and how many letters of each queue that were."""

    groups: dict[str, Group] = msgspec.field(default_factory=dict[str, Group])
    batches: dict[str, array[int]] = msgspec.field(default_factory=dict[str, "array[int]"])
    dead: dict[str, int] = msgspec.field(default_factory=dict[str, int])
    after: int = 0

    async def read(self, store: Store, waiting: _Waiting) -> None:
        """Read what is new, which waits no more."""
        while letters := await store.letters(after=self.after, limit=_PAGE):
            for letter in letters:
                _group_of(self.groups, letter).add(letter)
                waiting.end(letter)
                self.dead[letter.queue] = self.dead.get(letter.queue, 0) + 1
                if letter.envelope.id[36:37] == ".":
                    self.batches.setdefault(letter.envelope.id.rpartition(".")[0], array("q")).append(letter.number)
            self.after = letters[-1].number


class FailureGroups:
    """The groups of one store, in memory: new letters are read by number, and all again where somebody else has taken some away."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._letters = _Letters()
        self._waiting = _Waiting()
        self._looks_at = float("-inf")  # when it is read again what waits
        self._rests_until = float("-inf")
        self._said: dict[str, Desired] = {}
        self._known = 0

    async def refresh(self, store: Store) -> None:
        """Read what is new. Raises `BrokerUnavailable`."""
        while said := await store.desired(after=self._known):
            self._known = said[-1].number
            self._said.update({one.what.removeprefix(FAILURE): one for one in said if one.what.startswith(FAILURE)})
        if (began := self._now()) >= self._looks_at:
            waiting = _Waiting()
            await waiting.read(store)
            self._waiting, self._looks_at = waiting, self._now() + _REST * (self._now() - began)
        await self._read(store)
        self._waiting.mark(self._letters.groups)

    async def _read(self, store: Store) -> None:
        before, known, began = _dead_of((await store.overview()).queues), self._letters, self._now()
        is_first = not known.after
        await known.read(store, self._waiting)
        if not is_first:
            after = _dead_of((await store.overview()).queues)
            if _agree(known.dead, before, after) or self._now() < self._rests_until:
                return
            began, again = self._now(), _Letters()
            await again.read(store, self._waiting)
            self._letters = again
        self._rests_until = self._now() + _REST * (self._now() - began)

    def groups(self) -> list[Group]:
        """Return all that have letters or what waits, the latest first."""
        return sorted(
            (group for group in self._letters.groups.values() if group.numbers or group.waiting), key=lambda group: -group.last_at
        )

    def group(self, fingerprint: str) -> Group:
        """Return one group. Raises `NotFound`."""
        group = self._letters.groups.get(fingerprint)
        if group is None or not (group.numbers or group.waiting):
            raise NotFound(f'no message has the failure "{fingerprint[:100]}"; it may have been retried or discarded meanwhile')
        return group

    def said_of(self, fingerprint: str) -> Desired | None:
        """Return what was last said of a failure."""
        return self._said.get(fingerprint)

    def of_batch(self, batch: str) -> array[int]:
        """Return the letters of a batch."""
        return self._letters.batches.get(batch, array("q"))

    def forget(self, gone: Sequence[int]) -> None:
        """Have letters be gone."""
        if not gone:
            return
        taken = set(gone)
        for group in self._letters.groups.values():
            left = _without(group.numbers, taken)
            self._letters.dead[group.cause.queue] -= len(group.numbers) - len(left)
            group.numbers = left
        for batch, numbers in self._letters.batches.items():
            self._letters.batches[batch] = _without(numbers, taken)


def _group_of(groups: dict[str, Group], letter: Letter) -> Group:
    cause = cause_of(letter.envelope.type, letter.queue, letter.reason, letter.error)
    return groups.setdefault(cause.fingerprint, Group(cause))


def _without(numbers: array[int], taken: set[int]) -> array[int]:
    return array("q", (number for number in numbers if number not in taken))


def _dead_of(queues: Sequence[QueueStatus]) -> dict[str, int]:
    return {queue.name: queue.dead for queue in queues}


def _agree(known: Mapping[str, int], before: Mapping[str, int], after: Mapping[str, int]) -> bool:
    """Tell whether as many letters are known as there are; more may have died while they were read."""
    names = known.keys() | before.keys()
    return all(before.get(name, 0) <= known.get(name, 0) <= max(before.get(name, 0), after.get(name, 0)) for name in names)


class Done(Struct):
    """What became of some letters: those that were refused, because another message has their unique key, are dead as before."""

    done: int = 0
    gone: list[int] = msgspec.field(default_factory=list[int])
    refused: list[str] = msgspec.field(default_factory=list[str])


async def act_on(store: Store, numbers: Sequence[int], verb: str) -> Done:
    """Retry or discard letters, all at once; if one of them is refused, each by itself."""
    act = store.retry_letters if verb == "retry" else store.discard_letters
    told, waiting = Done(), [list(numbers)]
    while waiting:
        some = waiting.pop()
        try:
            told.done += await act(some)
            told.gone += some
        except Rejected as error:
            half = len(some) // 2
            if half:
                waiting += [some[half:], some[:half]]
            else:
                told.refused.append(str(error))
    return told


def edited(letter: Letter, edit: Mapping[str, object]) -> bytes:
    """Return the body of a letter with other values of some fields. Raises `InvalidMessage` for a body that has no fields."""
    envelope = letter.envelope
    try:
        body: object = decode_plain(envelope.body, envelope.content_type)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidMessage(envelope.type, {"$": f"the body of letter {letter.number} cannot be read: {error}"}) from None
    if not isinstance(body, dict):
        raise InvalidMessage(envelope.type, {"$": f"the body of letter {letter.number} is no object, so that it has no fields"})
    changed = {**cast("dict[str, object]", body), **edit}
    return msgspec.msgpack.encode(changed) if envelope.content_type == MSGPACK else encode_json(changed)
