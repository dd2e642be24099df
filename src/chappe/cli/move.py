"""`chappe move`: carries messages from one engine to another."""

from __future__ import annotations

import asyncio

import click
from msgspec.structs import asdict, replace

from chappe.app import App
from chappe.cli.loading import bare_app, find_app, settings_of
from chappe.cli.tables import as_json_option, show
from chappe.cli.terminal import say
from chappe.engines.file.owner import is_served
from chappe.errors import BrokerUnavailable, InvalidSettings
from chappe.moving import Moved, Mover
from chappe.settings import Settings, load


@click.command()
@click.option(
    "--to",
    "broker",
    metavar="URL",
    required=True,
    help="The broker of the engine to which they go: sqlite:///…, postgresql://… or amqp://…",
)
@click.option("--to-store", "store", metavar="URL", default=None, help="The store beside it, where it is amqp://…: postgresql://…")
@click.option("-Q", "--queue", "queues", multiple=True, help="Only this queue; may be given more than once.")
@as_json_option
@click.pass_context
def move(ctx: click.Context, broker: str, store: str | None, queues: tuple[str, ...], as_json: bool) -> None:
    """Carry what waits, is delayed or dead to another engine, while both are live.

    The old engine is the one of the settings; a file needs its engine, on either side. Runs until nothing is left in it; what runs
    there is waited for. Stop or move those who send to it first. Begun again after it was interrupted it goes on, and nothing is there
    twice. With -A, messages that merge are merged. Results, marks, budgets, the archive and counts of attempts stay where they are.
    """
    old = settings_of(ctx)
    new = load({"app": old.app, "broker": broker, "store": store, "allow_plain_amqp": old.allow_plain_amqp}, environment={})
    if (old.broker, old.store) == (new.broker, new.store):
        raise InvalidSettings("--to names the engine where the messages are: name the one to which they go")
    source, target = bare_app(old, may_own_file=False), _target(replace(new, deadline=old.deadline))
    for settings in (old, new):
        _refuse_without_engine(settings)
    moved = asyncio.run(_move(source, target, queues))
    show([asdict(one) for one in moved], ("queue", "ready", "delayed", "dead", "known"), as_json=as_json)


def _target(settings: Settings) -> App:
    if settings.app:
        return find_app(settings, may_own_file=False)
    app = App("chappe")
    app.configure(settings, may_own_file=False)
    return app


def _refuse_without_engine(settings: Settings) -> None:
    """Raise `BrokerUnavailable` for a file that nobody serves: what is ready there is lent by an engine only."""
    if settings.is_file and not is_served(settings.path):
        raise BrokerUnavailable(
            f"no engine runs for {settings.path}, and both sides of a move need one; start it with "
            f'"chappe --broker sqlite:///{settings.path} engine", then move again'
        )


async def _move(source: App, target: App, queues: tuple[str, ...]) -> list[Moved]:
    try:
        mover = Mover(await source.connection(), target)
        return await mover.move(queues, say)
    finally:
        await source.aclose()
        await target.aclose()
