"""What can be sent from a program can be sent from a handler, also what the application never declared."""

# The application is given the connection of a peer.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from chappe import App, Command, Context, Event, Exchange, Retry
from chappe.connection import Connection
from chappe.worker.running_table import RunningTable
from chappe.worker.worker import Worker

from .engine import Peer
from .scenes import eventually


class Begin(Command, queue="begin", retry=Retry(1)):
    pass


class Start(Command, inline=True):
    pass


class NewsTold(Event, exchange=Exchange("news", archive=3600.0), routing_key="news.told"):
    pass


class Later(Command, queue="elsewhere"):
    pass


class Kept(Command, queue="kept.elsewhere", key="one", priority=3):
    pass


NEVER_DECLARED = [NewsTold, Later, Kept]


async def _from_a_coroutine(command: Begin, context: Context) -> None:
    context.send([kind() for kind in NEVER_DECLARED])


def _from_a_thread(command: Begin, context: Context) -> None:
    for kind in NEVER_DECLARED:
        context.send(kind())


async def _yielded(command: Begin) -> AsyncGenerator[Any]:
    for kind in NEVER_DECLARED:
        yield kind()


def _yielded_in_a_thread(command: Begin) -> Generator[Any]:
    for kind in NEVER_DECLARED:
        yield kind()


async def _last(command: Begin) -> None: ...


@asynccontextmanager
async def working(app: App, peer: Peer, folder: Path) -> AsyncGenerator[None]:
    """Run a worker of an application over a peer."""
    connection = app.connections._opened[asyncio.get_running_loop()] = Connection(peer.broker, peer.store)
    connection.close = peer.close
    connection = await app.connection()
    table = RunningTable(folder / "slots", 2)
    async with connection.broker.consume(app.registry.consumed_queues(), prefetch=4) as consumer:
        worker = Worker(app.bus, consumer, merging=app.merger, ports=await app.ports(), concurrency=2, table=table)
        running = asyncio.create_task(worker.run())
        try:
            yield
        finally:
            await worker.stop(30.0)
            await running
            table.close()


async def all_came(peer: Peer) -> None:
    async def look() -> tuple[list[str], list[int], list[str | None]]:
        letters = [letter.error for letter in await peer.store.letters()]
        archived = [record.envelope.type for record in (await peer.store.archived(0, 10)).records]
        queues = {known.name: known.ready for known in (await peer.store.overview()).queues}
        return archived, [queues.get(name, -1) for name in ("elsewhere", "kept.elsewhere")], letters

    await eventually(look, (["news.told"], [1, 1], []))


@pytest.mark.parametrize("handler", [_from_a_coroutine, _from_a_thread, _yielded, _yielded_in_a_thread])
@pytest.mark.parametrize("is_last", [True, False], ids=["last", "with another after it"])
async def test_a_handler_sends_what_its_application_never_declared(
    peer: Peer, tmp_path: Path, handler: Callable[..., Any], is_last: bool
) -> None:
    app = App("shop")
    app.handles(Begin)(handler)
    if not is_last:
        app.handles(Begin)(_last)
    async with working(app, peer, tmp_path):
        await app.asend(Begin())
        await all_came(peer)


async def test_the_handler_of_an_inline_command_sends_what_its_application_never_declared(peer: Peer, tmp_path: Path) -> None:
    app = App("shop")

    @app.handles(Start)
    async def start(command: Start, context: Context) -> None:
        context.send([kind() for kind in NEVER_DECLARED])

    @app.handles(Begin)
    async def begin(command: Begin) -> None:
        await app.asend(Start())

    async with working(app, peer, tmp_path):
        await app.asend(Begin())
        await all_came(peer)


async def test_what_cannot_be_declared_costs_its_own_message_and_no_other(peer: Peer, tmp_path: Path) -> None:
    app, kinds = App("shop"), list[type[Event]]()

    @app.handles(Begin)
    async def begin(command: Begin, context: Context) -> None:
        class OtherTold(Event, exchange=Exchange("news", "fanout"), routing_key="other"):
            pass

        kinds.append(OtherTold)
        context.send(NewsTold() if len(kinds) != 2 else OtherTold())

    async with working(app, peer, tmp_path):
        for count in (1, 2, 3):
            await app.asend(Begin())

            async def look() -> int:
                return len((await peer.store.archived(0, 10)).records) + len(await peer.store.letters())

            await eventually(look, count)
    (letter,) = await peer.store.letters()
    assert letter.error is not None
    assert 'exchange "news" is' in letter.error
