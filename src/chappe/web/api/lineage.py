"""What belongs together: the message that began something, and everything that handlers sent because of it, as far as it is kept."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from msgspec import Struct

from chappe.app import App
from chappe.archive.follow import AT_ONCE, position_at
from chappe.engines.contract.inspection import MessageStatus, pages
from chappe.engines.contract.store import Store
from chappe.errors import NotFound
from chappe.messages.envelope import Envelope, sent_at
from chappe.roles import READ
from chappe.web.api.operations import Part, get
from chappe.words import counted

_WITHIN: Final = 0.7  # seconds for which queues and the archive are looked through, half of them each
_SKEW: Final = 5.0  # seconds by which clocks of hosts may differ
_TAIL: Final = 1024 * 1024  # bytes at the end of a log file
_MOST: Final = 500


class Node(Struct, frozen=True, omit_defaults=True):
    """One thing that happened: `cause` is the id of what it follows from."""

    id: str
    type: str
    kind: str
    state: str | None = None
    at: float | None = None
    ended_at: float | None = None
    queue: str | None = None
    cause: str | None = None
    text: str | None = None


class _Trail(Struct, frozen=True):
    root: str
    nodes: list[Node]
    is_all: bool


class Lineage(Part):
    """The route of one message's trail."""

    def __init__(self, app: App, pushed: Mapping[str, tuple[float, int]]) -> None:
        """Tell of an application; `pushed` says by id when this gateway pushed an event, and to how many clients."""
        super().__init__(app)
        self._pushed = pushed

    @get("/api/lineage/{id}", READ)
    async def trail(self, id: str) -> _Trail:
        """Tell what led to a message and what followed from it, in the order of time; `is_all` is false where the search was cut short."""
        store = await self._store()
        found: dict[tuple[str, str | None], Node] = {}
        root, is_all, ends = id, True, time.monotonic() + _WITHIN
        for _ in range(2):  # the second time with what began it, where the message itself names that
            begun = root
            is_all = await self._collect(store, root, found, ends)
            root = next((node.cause for node in found.values() if node.id == id and node.cause), root)
            if root == begun:
                break
        if not found:
            raise NotFound(f"nothing is kept of message {id[:100]}, nor of what followed from it")
        ids = {node.id for node in found.values()}
        logged = await asyncio.to_thread(lambda: list(self._logged(ids)))
        nodes = sorted([*found.values(), *self._pushes(ids), *logged], key=lambda node: node.at or 0.0)
        return _Trail(root, nodes[:_MOST], is_all and len(nodes) <= _MOST)

    async def _collect(self, store: Store, root: str, found: dict[tuple[str, str | None], Node], ends: float) -> bool:
        is_all = True
        for kept, share in ((_stored, 2), (_archived, 1)):
            until = time.monotonic() + (ends - time.monotonic()) / share
            async with aclosing(kept(store, root)) as looked:
                async for nodes in looked:
                    for node in nodes:
                        if node.queue is not None or (node.id, None) not in found:
                            found[node.id, node.queue] = node
                    if time.monotonic() > until or len(found) > _MOST:
                        is_all = False
                        break
        for identity in {root, *(node.id for node in found.values())}:
            if (node := await _tracked(store, identity, root)) is not None and not any(one == identity for one, queue in found if queue):
                found[identity, node.queue] = node
        return is_all

    def _pushes(self, ids: set[str]) -> Iterator[Node]:
        """Return to how many clients this gateway pushed them, as far as it remembers."""
        for identity in ids & self._pushed.keys():
            at, clients = self._pushed[identity]
            yield Node(f"{identity}@push", "push", "push", None, at, cause=identity, text=f"pushed to {counted(clients, 'client')}")

    def _logged(self, ids: set[str]) -> Iterator[Node]:
        """Return the lines of our logs that name one of them, from the end of the files of the pools of this host."""
        for file in {pool.log for pool in self._app.settings.pools.values() if pool.log}:
            try:
                with Path(file).open("rb") as log:
                    log.seek(max(0, log.seek(0, 2) - _TAIL))
                    lines = log.read().splitlines()
            except OSError:
                continue
            for line in lines:
                identity = next((one for one in ids if one.encode() in line), None)
                if identity is not None and (node := _line(line, identity)) is not None:
                    yield node


async def _stored(store: Store, root: str) -> AsyncGenerator[list[Node]]:
    """Yield what waits, runs or is dead, page by page: first what is found by its id, however much waits."""
    yield [_of_queue(one) for one in await store.find(root)]
    async for messages in pages(store, (await store.overview()).queues, root):
        yield [_of_queue(one) for one in messages if _belongs(one.envelope, root)]


async def _archived(store: Store, root: str) -> AsyncGenerator[list[Node]]:
    """Yield the events that were archived since it began, page by page."""
    began = sent_at(root)
    position = 0 if began is None else await position_at(store, began - _SKEW)
    while True:
        page = await store.archived(position, AT_ONCE)
        yield [
            _node(one.envelope, "event", state="done", at=one.at, text=f"{one.exchange} {one.routing_key}")
            for one in page.records
            if _belongs(one.envelope, root)
        ]
        position = page.cursor
        if position >= page.end:
            return


async def _tracked(store: Store, identity: str, root: str) -> Node | None:
    try:
        state = await store.state(identity)
    except NotFound:
        return None
    cause = state.merged_into or (None if identity == root else root)
    kind = "merge" if state.merged_into else "command"
    return Node(identity, state.type, kind, state.state, sent_at(identity), None, state.queue, cause, state.error)


def _belongs(envelope: Envelope, root: str) -> bool:
    return root in (envelope.id, envelope.correlation_id)


def _of_queue(one: MessageStatus) -> Node:
    return _node(one.envelope, "command", state=one.state, queue=one.queue, ended_at=one.died_at, text=one.error)


def _node(envelope: Envelope, kind: str, *, state: str, at: float | None = None, **more: Any) -> Node:
    at = at or envelope.timestamp or sent_at(envelope.id)
    return Node(envelope.id, envelope.type, kind, state, at, cause=envelope.correlation_id, **more)


def _line(line: bytes, identity: str) -> Node | None:
    """Return what one line of JSON says."""
    try:
        said: dict[str, Any] = json.loads(line)
        at = datetime.fromisoformat(said["timestamp"]).timestamp()
        return Node(f"{identity}@{at}", "log", "log", None, at, cause=identity, text=f"{said['level']}: {said['event']}"[:500])
    except (ValueError, KeyError, TypeError):
        return None
