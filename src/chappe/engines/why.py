"""Why a message does not run now: every reason that holds, and the earliest time where it can be computed. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from msgspec import Struct

from chappe.engines.contract.fleet import QueueStatus
from chappe.engines.contract.inspection import MOST_AHEAD, MessageStatus
from chappe.words import counted

Pool = Mapping[str, Any]  # as its supervisor tells of it


class Reason(Struct, frozen=True, omit_defaults=True):
    """One reason: `until` is when it ends, in seconds since the epoch, `of` the message that it is because of."""

    reason: str
    text: str
    until: float | None = None
    of: str | None = None


class Facts(Struct, frozen=True):
    """What is known around a message: the messages `ahead` of it, its queue, what supervisors tell of the hosts that may serve it.

    `is_handled` says whether the application that asks has a handler for its type.
    """

    now: float
    queue: QueueStatus
    ahead: int = 0
    hosts: Sequence[Mapping[str, Any]] = ()
    is_handled: bool = True


def why(message: MessageStatus, facts: Facts) -> list[Reason]:
    """Return every reason, those first that end last; one that is next to run has the reason *next*."""
    if message.state == "running" and not message.begun:
        return [Reason("busy", f"it is the next in {message.holder}, whose slots are all busy")]
    if message.state == "running":
        return [Reason("running", f"attempt {message.attempt} runs in {message.holder or 'a process that is not connected any more'}")]
    if message.state == "dead":
        told = f": {message.error.splitlines()[0]}" if message.error else ""
        return [Reason("dead", f"it ended as a dead letter ({message.reason}){told}; chappe dead retry {message.number} has it run again")]
    found = [*_of_message(message, facts), *_of_queue(message, facts)]
    return found or [Reason("next", "nothing holds it back: it is about to run")]


def _of_message(message: MessageStatus, facts: Facts) -> Iterator[Reason]:
    if message.budget is not None:
        opens = max(facts.now, message.due or facts.now) + facts.ahead * (message.pace or 0.0)
        before = f" behind {counted(facts.ahead, 'message')}" if facts.ahead else ""
        yield Reason("budget", f'it waits for a start of budget "{message.budget}"{before}', opens)
    elif message.state == "delayed" and message.due is not None:
        if not facts.is_handled:
            yield Reason("release", f'no handler of this release knows "{message.envelope.type}": it waits for another one', message.due)
        elif message.error is not None:
            yield Reason("retry", f"attempt {message.attempt - 1} failed ({message.error.splitlines()[0]}); it is tried again", message.due)
        else:
            yield Reason("delayed", "it is to run later", message.due)
    if message.held_by is not None:
        yield Reason("key", f'a message before it has the same key "{message.key}": one of them runs at a time', of=message.held_by)
    if message.alone:
        yield Reason("alone", f"{counted(message.deaths, 'worker')} died with it, so that it runs alone when a process is free for it")


def _of_queue(message: MessageStatus, facts: Facts) -> Iterator[Reason]:
    queue = facts.queue
    if queue.paused:
        yield Reason("paused", f"queue {queue.name} is paused; chappe resume {queue.name}")
    if not facts.is_handled and message.state == "ready":
        yield Reason("no_handler", f'the application has no handler for "{message.envelope.type}"')
    if not queue.consumers:
        yield from _without_consumers(facts)
        return
    if message.state != "ready" or message.held_by is not None:
        return
    pools = [(host, pool) for host in facts.hosts for pool in host["pools"].values() if _serves(pool, queue.name)]
    for host, _ in pools:
        pressure: Mapping[str, Any] = host.get("pressure") or {}
        if pressure.get("limit") is not None and pressure["limit"] < pressure.get("slots", 0):
            text = f"the governor of {host['host']} allows {counted(int(pressure['limit']), 'slot')} of {pressure['slots']}"
            yield Reason("governor", f"{text}: the machine is busy")
            break
    if facts.ahead:
        yield _behind(message, facts, sum(pool.get("rate") or 0.0 for _, pool in pools))
    if pools and all(pool["busy"] >= pool["slots"] * max(1, len(pool["processes"])) for _, pool in pools):
        yield Reason("busy", "every slot of the pools that serve it is busy" + ("" if facts.ahead else "; it is the next"))


def _behind(message: MessageStatus, facts: Facts, rate: float) -> Reason:
    """Return what is served before a message, where its queue is served at so many messages a second."""
    many = f"more than {MOST_AHEAD:,}" if facts.ahead >= MOST_AHEAD else f"{facts.ahead:,}"
    plural = "message is" if facts.ahead == 1 else "messages are"
    if message.tenant is not None:
        text = f'{many} {plural} of "{message.tenant}" served before it, which has a share of the workers\' time among others'
        return Reason("share", text)
    speed = f", at {rate:g} a second" if rate > 0 else ""
    until = facts.now + facts.ahead / rate if rate > 0 and facts.ahead < MOST_AHEAD else None
    return Reason("behind", f"{many} {plural} served before it{speed}", until)


def _without_consumers(facts: Facts) -> Iterator[Reason]:
    """Say why nobody serves a queue."""
    name = facts.queue.name
    serving = [(pool_name, pool) for host in facts.hosts for pool_name, pool in host["pools"].items() if _serves(pool, name)]
    for pool_name, pool in serving:
        states = [process["state"] for process in pool["processes"]]
        if not pool["wanted"]:
            yield Reason("pool", f"pool {pool_name} has no processes: chappe scale {pool_name}=1")
        elif "FATAL" in states:
            yield Reason("lost", f"pool {pool_name} is given up: its processes do not start; see chappe logs {pool_name}")
        elif states and all(state in ("waiting", "starting") for state in states):
            yield Reason("lost", f"the processes of pool {pool_name} are on their way; those that died wait before they are started again")
    if not serving:
        yield Reason("no_worker", f"no worker serves queue {name}: start one with chappe run, or chappe worker {name}")


def _serves(pool: Pool, queue: str) -> bool:
    def named(which: str) -> bool:
        patterns: Sequence[str] = pool.get(which) or ()
        return any(fnmatchcase(queue, pattern) for pattern in patterns)

    return named("queues") and not named("exclude")
