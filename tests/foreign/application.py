"""The application that foreign programs speak with: for each of them its exchanges and queues, and handlers that write what they get.

It runs in a folder of its own: CHAPPE_APP=tests.foreign.application:app, for the programs that FOREIGN_CLIENTS names.
"""

from __future__ import annotations

import datetime as dt
import json
import os
from collections.abc import Iterable
from pathlib import Path

from chappe import App, Command, Context, Event, Retry
from chappe.messages.capabilities import Exchange
from chappe.messages.topology import Binding, bind
from chappe.settings import Settings

from .clients import CLIENTS, Client

LINES = Path("lines")


class Letter(Command):
    """What foreign programs write; the attempts before `fails` fail."""

    text: str
    at: dt.datetime
    day: dt.date
    fails: int = 0


def handle(letter: Letter, context: Context) -> None:
    """Write down what came."""
    line = {
        "type": letter.__spec__.name,
        "text": letter.text,
        "at": letter.at.isoformat(),
        "day": letter.day.isoformat(),
        "id": context.id,
        "attempt": context.attempt,
        "queue": context.queue,
        "sent_at": context.sent_at,
        "headers": dict(context.headers),
        "correlation_id": context.correlation_id,
    }
    handle = os.open(LINES, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(handle, (json.dumps(line) + "\n").encode())
    os.close(handle)
    if context.attempt < letter.fails:
        raise ConnectionError("try again")


class Office:
    """What stands for one foreign program: exchanges and queues of both sides, and what Chappe sends it."""

    def __init__(self, app: App, client: Client) -> None:
        name, theirs = client.name, client.declares  # who declares no exchanges finds ours
        topic = Exchange(f"{name}.topic", "topic", passive=theirs)
        direct = Exchange(f"{name}.direct", "direct", arguments={"alternate-exchange": "amq.fanout"} if theirs else {})
        fanout = Exchange(f"{name}.fanout", "fanout", durable=False, passive=theirs)

        class Note(Letter, name=f"{name}.note", exchange=topic, routing_key="note.ours"):
            pass

        class Order(Letter, name=f"{name}.order", exchange=direct, routing_key="order"):
            pass

        class Shout(Letter, name=f"{name}.shout", exchange=fanout, routing_key="any"):
            pass

        class Parcel(Letter, name=f"{name}.parcel", queue=f"{name}.box", retry=Retry(5, delay=0.05, jitter=0.0)):
            pass

        class Told(Letter, name=f"{name}.told", exchange=Exchange(f"{name}.told", "fanout", durable=False), routing_key="told"):
            pass

        class Happened(Event, name=f"{name}.happened"):
            text: str
            at: dt.datetime
            day: dt.date

        desk = bind(
            f"{name}.desk",
            Binding(topic.name, "note.#", type=Note.__spec__.name),
            Binding(direct.name, "order", type=Order.__spec__.name),
        )
        app.handles(Note, Order, queue=desk)(handle)
        app.handles(Shout, queue=bind(f"{name}.ears", f"{name}.fanout:"))(handle)
        app.handles(Parcel, queue=bind(f"{name}.box", passive=True))(handle)
        app.knows(Told, Happened)
        self.parcel, self.told, self.happened = Parcel, Told, Happened


def application(clients: Iterable[Client], settings: Settings | None = None) -> tuple[App, dict[str, Office]]:
    """Make the application for some of the programs."""
    app = App("foreign", settings=settings)
    return app, {client.name: Office(app, client) for client in clients}


app, _ = application(CLIENTS[name] for name in os.environ.get("FOREIGN_CLIENTS", "").split())
