"""What each page of the dashboard asks with a million messages stored: `python -m benchmarks.million`, also with `--broker postgres`."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import httpx2
from starlette.types import Receive, Scope, Send
from tests.servers.postgres import PostgresNode

from chappe import App, Command, Event, Exchange, Retry, Settings
from chappe.batches import Batches
from chappe.bus.draft import Draft, new_id
from chappe.engines.contract import broker as contract
from chappe.engines.file.server import Engine
from chappe.web.gateway import gateway

MOST: Final = 1.0  # seconds
CHUNK: Final = 2000
TIMES: Final = 3
ERRORS: Final = [f"{kind}: 'house'\n  at shop:{place} line 3: raise\n\nTraceback (most recent call last):\n" for kind, place in (
    ("KeyError", "parse"), ("ValueError", "price"), ("OSError", "fetch"))]  # fmt: skip


class Fetch(Command, queue="fetches", retry=Retry(3)):
    article: int
    link: str


class Bill(Command, queue="bills", retry=Retry(1)):
    order: int


class Mail(Command, queue="mails"):
    guest: str


class Booked(Event, exchange=Exchange("bookings", archive=86400.0), routing_key="booked"):
    house: int


def make() -> tuple[App, Batches]:
    """Return an application with four queues."""
    app = App("hall")

    @app.handles(Fetch, Bill, Mail)
    async def handle(command: Fetch | Bill | Mail) -> None: ...

    @app.on(Booked)
    async def booked(event: Booked) -> None: ...

    return app, Batches(app)


@contextlib.asynccontextmanager
async def opened(folder: Path, postgres: str | None) -> AsyncGenerator[tuple[App, Batches, httpx2.AsyncClient]]:
    """Open an application with its engine and gateway in this process."""
    app, batches = make()
    engine = Engine(folder / "chappe.db", grace=0.0) if postgres is None else None
    settings = Settings(broker=postgres or f"sqlite:///{folder}/chappe.db", state_dir=str(folder), deadline=120.0)
    app.configure(settings, engine=engine) if engine is not None else app.configure(settings)
    served = gateway(app)

    async def of_this_user(scope: Scope, receive: Receive, send: Send) -> None:
        await served({"extensions": {"chappe.user": {"id": os.getuid()}}, **scope}, receive, send)

    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=of_this_user), base_url="http://localhost:7070", timeout=120) as http:
        try:
            yield app, batches, http
        finally:
            await app.aclose()
            if engine is not None:
                engine.close()


def batched(messages: Iterable[Command | Event]) -> Iterator[list[Command | Event]]:
    """Return messages in parts."""
    rest = iter(messages)
    while some := list(itertools.islice(rest, CHUNK)):
        yield some


async def fill(app: App, batches: Batches, count: int) -> str:
    """Store so many messages: a twentieth dead of three causes, a seventh delayed, a tenth one batch, a few that failed and wait."""
    broker = (await app.connection()).broker
    dead, failing = count // 20, count // 200

    async def publish(messages: Iterable[Command | Event]) -> None:
        for some in batched(messages):
            await broker.publish([app.bus.prepare(message, Draft(new_id())) for message in some])

    await publish(Bill(order=n) for n in range(dead + failing))
    async with broker.consume(["bills"], prefetch=1000) as consumer:
        left = dead + failing
        while left:
            lent = await consumer.receive(1000, 5.0)
            ends = [contract.Dead(one.tag, "failed", ERRORS[one.tag % 3]) for one in lent[: max(0, left - failing)]]
            ends += [contract.Retry(one.tag, after=3600.0, error=ERRORS[0]) for one in lent[len(ends) :]]
            await consumer.settle(ends)
            left -= len(lent)
    batch = await batches.asend([Fetch(article=n, link=f"https://example.org/{n}") for n in range(count // 10)])
    for first in range(0, count // 7, CHUNK):
        await app.asend([Mail(guest=f"guest{n}") for n in range(first, min(first + CHUNK, count // 7))], delay=3600.0)
    rest = count - dead - failing - count // 10 - count // 7
    await publish(Booked(house=n) if n % 50 == 0 else Fetch(article=n, link=f"https://example.com/{n}") for n in range(rest))
    return batch


async def ask(http: httpx2.AsyncClient, batch: str) -> dict[str, list[float]]:
    """Ask each route that a page asks, and return the seconds that each answer took."""
    got = (await http.get("/api/messages?queue=fetches&limit=200")).json()["messages"]
    last = got[-1]["id"]
    number = (await http.get("/api/letters")).json()["letters"][-1]["number"]
    while not (found := (await http.get("/api/failures")).json())["is_whole"]:
        pass
    cause = found["groups"][0]["fingerprint"]
    paths = [
        "/api/overview", "/api/queues", "/api/messages", "/api/messages?queue=fetches&state=ready", "/api/messages?state=delayed",
        "/api/messages?state=dead", "/api/messages?text=example.com/777777", "/api/messages?text=nowhere&queue=fetches",
        "/api/messages?type=booked", f"/api/messages?id={last}", f"/api/messages/{last}", f"/api/messages/{batch}.77",
        f"/api/lineage/{last}", f"/api/lineage/{batch}.77", "/api/failures", f"/api/failures/{cause}", "/api/letters?limit=200",
        f"/api/letters/{number}", "/api/batches", f"/api/batches/{batch}", "/api/schedules", "/api/budgets", "/api/history?period=hour",
        "/api/history?queue=fetches&period=week", "/api/alerts", "/api/audit", "/api/me", "/metrics",
    ]  # fmt: skip
    took: dict[str, list[float]] = {}
    for path in paths * TIMES:
        began = time.perf_counter()
        answer = await http.get(path)
        took.setdefault(path.replace(last, "ID").replace(batch, "BATCH").replace(cause, "CAUSE"), []).append(time.perf_counter() - began)
        assert answer.status_code == 200, f"{path}: {answer.text}"
    return took


async def measure(folder: Path, count: int, postgres: str | None) -> dict[str, Any]:
    """Fill an engine and ask."""
    async with opened(folder, postgres) as (app, batches, http):
        began = time.perf_counter()
        batch = await fill(app, batches, count)
        filled = time.perf_counter() - began
        began = time.perf_counter()
        while not (await http.get("/api/failures")).json()["is_whole"]:
            pass
        read = time.perf_counter() - began
        took = await ask(http, batch)
        stored = sum(q["ready"] + q["delayed"] + q["dead"] for q in (await http.get("/api/queues")).json()["queues"])
    worst = {path: round(max(times), 3) for path, times in sorted(took.items(), key=lambda one: -max(one[1]))}
    return {
        "broker": "postgres" if postgres else "file",
        "stored": stored,
        "filled in": round(filled, 1),
        "letters read in": round(read, 2),
        "worst": worst,
    }


def main() -> int:
    """Print a line of JSON; exit with 1 if any answer took longer than it may."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--broker", choices=["file", "postgres"], default="file")
    parser.add_argument("--count", type=int, default=1_000_000)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name, contextlib.ExitStack() as stack:
        url = stack.enter_context(PostgresNode(Path(name) / "server")).url if asked.broker == "postgres" else None
        told = asyncio.run(measure(Path(name), asked.count, url))
    print(json.dumps(told))
    return 1 if max(told["worst"].values()) > MOST else 0


if __name__ == "__main__":
    sys.exit(main())
