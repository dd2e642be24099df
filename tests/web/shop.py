"""A shop behind a gateway: commands of every kind, a worker, and everything in one process."""

import asyncio
import datetime
import enum
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import httpx2
import msgspec
from starlette.types import ASGIApp, Receive, Scope, Send

from chappe import App, Command, Context, Event, Reject, Retry, Settings, Unique, replace
from chappe.engines.file.server import Engine
from chappe.web.gateway import gateway
from chappe.worker.running_table import RunningTable
from chappe.worker.worker import Worker

TOKEN = "a-token-of-sufficient-length"


class Size(enum.Enum):
    SMALL = "s"
    LARGE = "l"


class Line(msgspec.Struct, frozen=True):
    article: Annotated[str, msgspec.Meta(min_length=1, max_length=40)]
    count: Annotated[int, msgspec.Meta(ge=1, le=1000)]
    note: str | None = None


class Order(Command, queue="orders"):
    """Sell something.

    The second paragraph is for the description only.
    """

    customer: Annotated[str, msgspec.Meta(min_length=1)]
    lines: list[Line]
    size: Size = Size.SMALL
    when: datetime.date | None = None
    payment: Literal["card", "cash"] = "card"


class Refresh(Command, queue="refresh", key="{house}"):
    house: int
    what: frozenset[Literal["rates", "texts"]]

    def merge(self, newer: Self) -> Self:
        return replace(self, what=self.what | newer.what)


class Invite(Command, queue="invites", unique=Unique("{address}")):
    address: str


class Add(Command, inline=True):
    """Handled here and now."""

    a: int
    b: float = 0.0


class Divide(Command, inline=True):
    a: int
    b: int


class Fail(Command, queue="failing", retry=Retry(1)):
    how: str = "x"


class Sold(Event):
    customer: str


def make() -> App:
    """Return the shop's application."""
    app = App("shop")

    @app.handles(Order)
    async def order(command: Order, context: Context) -> dict[str, Any]:
        await context.progress(1, 2, "half")
        return {"customer": command.customer, "lines": len(command.lines)}

    @app.handles(Refresh)
    async def refresh(command: Refresh) -> list[str]:
        return sorted(command.what)

    @app.handles(Invite)
    async def invite(command: Invite) -> None: ...

    @app.handles(Add)
    async def add(command: Add) -> float:
        return command.a + command.b

    @app.handles(Divide)
    async def divide(command: Divide) -> float:
        return command.a / command.b

    @app.handles(Fail)
    async def fail(command: Fail) -> None:
        raise Reject(f"it failed {command.how}")

    @app.on(Sold)
    async def sold(event: Sold) -> None: ...

    return app


def of_this_user(asgi: ASGIApp) -> ASGIApp:
    """Return an application that is told what the protocol tells it of a connection by this user."""

    async def called(scope: Scope, receive: Receive, send: Send) -> None:
        await asgi({"extensions": {"chappe.user": {"id": os.getuid()}}, **scope}, receive, send)

    return called


class Open:
    """The shop while it is open."""

    def __init__(self, app: App, engine: Engine, asgi: ASGIApp, client: httpx2.AsyncClient, folder: Path) -> None:
        self.app, self.engine, self.asgi, self.client, self.folder = app, engine, asgi, client, folder

    @asynccontextmanager
    async def working(self) -> AsyncIterator[Worker]:
        """Have a worker handle everything."""
        async with working(self.app, self.folder) as worker:
            yield worker

    async def stored(self, queue: str) -> int:
        """Count what is ready in a queue."""
        connection = await self.app.connection()
        return (await connection.broker.depth(queue)).ready


@asynccontextmanager
async def working(app: App, folder: Path) -> AsyncIterator[Worker]:
    """Run a worker for all queues of an application in this event loop."""
    connection = await app.connection()
    table = RunningTable(folder / "slots", 10)
    async with connection.broker.consume(app.registry.consumed_queues(), prefetch=20) as consumer:
        worker = Worker(app.bus, consumer, merging=app.merger, ports=await app.ports(), concurrency=10, table=table)
        running = asyncio.ensure_future(worker.run())
        try:
            yield worker
        finally:
            consumer.stop()
            await worker.stop(1.0)
            await running
            table.close()


@asynccontextmanager
async def opened(
    folder: Path, wrap: Callable[[ASGIApp], ASGIApp] = lambda asgi: asgi, make: Callable[[], App] = make, **settings: Any
) -> AsyncIterator[Open]:
    """Open the shop, or another application: engine, gateway and client in this event loop."""
    path = folder / "chappe.db"
    engine = Engine(path, grace=0.0)
    app = make()
    app.configure(Settings(broker=f"sqlite:///{path}", **settings), engine=engine)
    asgi = of_this_user(wrap(gateway(app)))
    headers = {"Authorization": f"Bearer {settings['token']}"} if settings.get("token") else {}
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=asgi), base_url="http://localhost:7070", headers=headers) as client:
        try:
            yield Open(app, engine, asgi, client, folder)
        finally:
            await app.aclose()
            engine.close()
