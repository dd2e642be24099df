"""When alerts of the settings fire and when they are over, decided by what the engine tells of its queues and processes."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Final

from msgspec import Struct

from chappe.engines.contract.fleet import Fleet, Overview, QueueStatus
from chappe.settings import Alert

ALERT: Final = "alert:"


class Fired(Struct, frozen=True):
    """What is wrong: `name` is that of the rule and what it is about, `text` a sentence."""

    name: str
    text: str
    since: float
    value: float


async def fired_alerts(store: Fleet) -> list[Fired]:
    """Return the alerts that are not over, as all gateways agree on in the desired state of the engine."""
    known, fired = 0, list[Fired]()
    while said := await store.desired(after=known):
        known = said[-1].number
        for one in said:
            value, _, text = (one.value or "").partition(": ")
            if one.what.startswith(ALERT) and text:
                fired.append(Fired(one.what.removeprefix(ALERT), text, one.at, float(value)))
    return fired


async def is_first_to_say(store: Fleet, change: Change, who: str) -> bool:
    """Have the engine remember a change, and tell whether no other gateway has said the same before."""
    fired = change.fired
    said = await store.desire(f"{ALERT}{fired.name}", None if change.is_over else f"{fired.value:g}: {fired.text}", who)
    before = [one for one in await store.desired(every=True) if one.what == said.what and one.number < said.number]
    return not before or (before[-1].value is None) != change.is_over


class Change(Struct, frozen=True):
    """An alert that begins, or is over."""

    fired: Fired
    is_over: bool = False


class _Seen(Struct):
    fired: Fired
    at: float  # since when it is as it is now
    is_so: bool = True
    was_told: bool = False


class Alerts:
    """All rules of an application; each thing that is wrong is told once, and that it is over once."""

    def __init__(self, rules: Mapping[str, Alert], told: Iterable[Fired] = ()) -> None:
        """`told` is what has fired before, and is not over."""
        self._rules = rules
        self._seen = {fired.name: _Seen(fired, fired.since, was_told=True) for fired in told}
        self._idle: dict[str, float] = {}

    def look(self, now: float, overview: Overview, events: Mapping[str, int] = MappingProxyType({})) -> list[Change]:
        """Return what has begun or is over by now; `events` has how many there were, by rule, where that is known."""
        wrong = {fired.name: (fired, rule) for fired, rule in self._wrong(now, overview, events)}
        changes: list[Change] = []
        for name in wrong.keys() | self._seen.keys():
            found, rule = wrong.get(name) or (None, self._rules.get(name.partition(" ")[0]))
            hold = rule.hold if rule is not None else 0.0
            seen = self._seen.get(name)
            if seen is None:
                assert found is not None
                seen = self._seen[name] = _Seen(found, now)
            if seen.is_so != (found is not None):
                seen.is_so, seen.at = found is not None, now
            if found is not None and not seen.was_told:
                seen.fired = Fired(name, found.text, seen.at, found.value)
            if now - seen.at >= hold and seen.is_so != seen.was_told:
                seen.was_told = seen.is_so
                changes.append(Change(seen.fired, not seen.is_so))
            if not seen.is_so and not seen.was_told:
                del self._seen[name]
        return sorted(changes, key=lambda change: change.fired.name)

    def _wrong(self, now: float, overview: Overview, events: Mapping[str, int]) -> Iterator[tuple[Fired, Alert]]:
        self._idle = {
            queue.name: self._idle.get(queue.name, now)
            for queue in overview.queues
            if queue.ready and not queue.running and not queue.paused
        }
        for name, rule in self._rules.items():
            for queue in overview.queues:
                if not queue.temporary and fnmatch.fnmatchcase(queue.name, rule.queue):
                    for what, value, text in _faults(rule, queue, now - self._idle.get(queue.name, now)):
                        yield Fired(f"{name} {what} {queue.name}", f"queue {queue.name}: {text}", now, value), rule
            if (count := events.get(name)) is not None:
                for what, text in _counted(rule, count):
                    yield Fired(f"{name} {what} {rule.events}", f"events {rule.events}: {text}", now, float(count)), rule
            if rule.crash_loop:
                for host, process, crashes in _given_up(overview):
                    text = f"host {host}: process {process} does not stay up"
                    yield Fired(f"{name} crash_loop {host}/{process}", text, now, float(crashes)), rule


def _faults(rule: Alert, queue: QueueStatus, idle: float) -> Iterator[tuple[str, float, str]]:
    oldest = queue.oldest or 0.0
    if rule.age is not None and oldest > rule.age:
        yield "age", oldest, f"its oldest message waits for more than {rule.age:g} s"
    if rule.depth is not None and queue.ready > rule.depth:
        yield "depth", float(queue.ready), f"more than {rule.depth} messages are ready"
    if rule.dead is not None and queue.dead > rule.dead:
        yield "dead", float(queue.dead), f"more than {rule.dead} dead letter{'s' * (rule.dead != 1)}"
    if rule.stalled is not None and idle > rule.stalled:
        yield "stalled", idle, f"nothing runs for more than {rule.stalled:g} s, and messages wait"


def _counted(rule: Alert, count: int) -> Iterator[tuple[str, str]]:
    if rule.most is not None and count > rule.most:
        yield "most", f"more than {rule.most} within {rule.within:g} s"
    if rule.least is not None and count < rule.least:
        yield "least", f"fewer than {rule.least} within {rule.within:g} s"


def _given_up(overview: Overview) -> Iterator[tuple[str, str, int]]:
    for supervisor in overview.supervisors:
        for pool in supervisor["pools"].values():
            for process in pool["processes"]:
                if process["state"] == "FATAL":
                    yield str(supervisor["host"]), str(process.get("name", process["pid"])), int(process.get("crashes", 0))
