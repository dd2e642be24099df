"""`chappe move`: carries messages from one engine to another."""

from __future__ import annotations

import asyncio

import click
from msgspec.structs import asdict, replace

from chappe.app import App
from chappe.cli.loading import bare_app, find_app, settings_of
from chappe.cli.tables import show
from chappe.errors import InvalidSettings
from chappe.moving import Moved, Mover
from chappe.settings import Settings, load


@click.command()
@click.option("--to", "broker", metavar="URL", required=True, help="The broker of the engine to which they go: sqlite:///… or amqp://…")
@click.option("--to-store", "store", metavar="URL", default=None, help="The store beside it, where it is amqp://…: postgresql://…")
@click.option("-Q", "--queue", "queues", multiple=True, help="Only this queue; may be given more than once.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def move(ctx: click.Context, broker: str, store: str | None, queues: tuple[str, ...], as_json: bool) -> None:
    """Carry what waits, is delayed or dead to another engine, while both are live.

    The old engine is the one of the settings. Runs until nothing is left in it; what runs there is waited for. Stop or move those who
    send to it first. Begun again after it was interrupted it goes on, and nothing is there twice. With -A, messages that merge are merged.
    Results, marks, budgets, the archive and counts of attempts stay where they are.
    """
    old = settings_of(ctx)
    new = load({"app": old.app, "broker": broker, "store": store}, environment={})
    if (old.broker, old.store) == (new.broker, new.store):
        raise InvalidSettings(f"--to {broker} is where the messages are: name the engine to which they go")
    moved = asyncio.run(_move(bare_app(old), _target(replace(new, deadline=old.deadline)), queues))
    show([asdict(one) for one in moved], ("queue", "ready", "delayed", "dead", "known"), as_json=as_json)


def _target(settings: Settings) -> App:
    return find_app(settings) if settings.app else App("chappe", settings=settings)


async def _move(source: App, target: App, queues: tuple[str, ...]) -> list[Moved]:
    try:
        mover = Mover(await source.connection(), target)
        return await mover.move(queues, lambda left: click.echo(left, err=True))
    finally:
        await source.aclose()
        await target.aclose()
