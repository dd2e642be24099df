"""The verbs that change what runs: pause, resume, scale, weight and reload; each is remembered with who said it."""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import Sequence

import click

from chappe.cli.loading import ask, bare_app, find_app, run_with, settings_of
from chappe.cli.tables import as_json_option, show, when
from chappe.cli.terminal import say
from chappe.connection import Connection
from chappe.engines.contract.fleet import INTAKE, PAUSED, POOL, QUEUE, RELOAD, SCHEDULE, TENANT, Desired
from chappe.engines.fairness import weight_of
from chappe.errors import InvalidSettings
from chappe.failures import printable
from chappe.settings import Settings, processes_of
from chappe.triggers.firings import schedule_named


def who() -> str:
    """Return who says something, as the audit trail shows it."""
    try:
        name = getpass.getuser()
    except (OSError, KeyError):  # a user without a name, as in some containers
        name = str(os.getuid())
    return f"{name}@{socket.gethostname()}"


def desire(settings: Settings, wanted: Sequence[tuple[str, str | None]]) -> list[Desired]:
    """Remember what is wanted, one after the other."""

    async def work(connection: Connection) -> list[Desired]:
        return [await connection.store.desire(what, value, who()) for what, value in wanted]

    return run_with(bare_app(settings), work)


def _paused(ctx: click.Context, queues: tuple[str, ...], schedules: tuple[str, ...], intake: bool, value: str | None) -> None:
    if not queues and not schedules and not intake:
        raise click.UsageError("name a queue, --schedule NAME, or --intake")
    settings = settings_of(ctx)
    wanted = [(f"{QUEUE}{queue}", value) for queue in queues]
    if schedules:
        app = find_app(settings)
        wanted += [(f"{SCHEDULE}{schedule_named(app.schedules, given, app.name)}", value) for given in schedules]
    desire(settings, [*wanted, *([(INTAKE, value)] if intake else [])])


_schedule = click.option("--schedule", "schedules", multiple=True, metavar="NAME", help="As chappe schedules shows it; may be repeated.")


@click.command()
@click.argument("queues", nargs=-1, metavar="[QUEUE]...")
@_schedule
@click.option("--intake", is_flag=True, help="Take no new commands over HTTP: they are answered with 503 and Retry-After.")
@click.pass_context
def pause(ctx: click.Context, queues: tuple[str, ...], schedules: tuple[str, ...], intake: bool) -> None:
    """Have nothing more be taken from queues, by any worker of any host, or have schedules pass over their slots; what runs is finished."""
    _paused(ctx, queues, schedules, intake, PAUSED)


@click.command()
@click.argument("queues", nargs=-1, metavar="[QUEUE]...")
@_schedule
@click.option("--intake", is_flag=True, help="Take commands over HTTP again.")
@click.pass_context
def resume(ctx: click.Context, queues: tuple[str, ...], schedules: tuple[str, ...], intake: bool) -> None:
    """Have queues and schedules that were paused go on."""
    _paused(ctx, queues, schedules, intake, None)


@click.command()
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@click.pass_context
def cancel(ctx: click.Context, ids: tuple[str, ...]) -> None:
    """Cancel messages, and print where each was: delayed and ready ones are gone, a running async handler or process is ended."""

    async def work(connection: Connection) -> None:
        for message_id in ids:
            click.echo(f"{printable(message_id)} was {await connection.broker.cancel(message_id)}")

    ask(ctx, work)


@click.command()
@click.argument("pools", nargs=-1, required=True, metavar="POOL=N...")
@click.pass_context
def scale(ctx: click.Context, pools: tuple[str, ...]) -> None:
    """Change how many processes of a pool each host runs: import=20, import=2..20, or import= for what chappe.toml declares."""
    settings = settings_of(ctx)
    wanted: list[tuple[str, str | None]] = []
    for given in pools:
        name, found, count = given.partition("=")
        if name not in settings.pools or not found:
            raise click.UsageError(f'"{given}" must be POOL=N; the pools of chappe.toml are: {", ".join(settings.pools)}')
        try:
            processes_of(count or "auto")
        except ValueError as error:
            raise InvalidSettings(f"{given}: {error}") from None
        wanted.append((f"{POOL}{name}", count or None))
    desire(settings, wanted)


@click.command()
@click.argument("tenants", nargs=-1, required=True, metavar="TENANT=WEIGHT...")
@click.pass_context
def weight(ctx: click.Context, tenants: tuple[str, ...]) -> None:
    """Change the share of a tenant, from the next message on: 4711=3 gives it three times what others have, 4711= the same again."""
    wanted: list[tuple[str, str | None]] = []
    for given in tenants:
        name, found, value = given.rpartition("=")
        if not found:
            raise click.UsageError(f'"{given}" must be TENANT=WEIGHT')
        wanted.append((f"{TENANT}{name}", str(weight_of(value)) if value else None))
    desire(settings_of(ctx), wanted)


@click.command()
@click.pass_context
def reload(ctx: click.Context) -> None:
    """Have the supervisors of all hosts take a new release of the application and of chappe.toml into use, as SIGHUP does."""
    desire(settings_of(ctx), [(RELOAD, None)])
    say("asked for; chappe status shows when all processes run it, and the log whether it was refused")


@click.command()
@click.option("-n", "--limit", default=50, show_default=True, type=click.IntRange(1, 1000))
@as_json_option
@click.pass_context
def audit(ctx: click.Context, limit: int, as_json: bool) -> None:
    """Show who paused, resumed, scaled or reloaded what, and when."""

    rows = [
        {"at": when(one.at), "who": one.who, "what": one.what, "value": one.value or "as declared"}
        for one in ask(ctx, lambda connection: connection.store.desired(every=True, limit=limit))
    ]
    show(rows, ("at", "who", "what", "value"), as_json=as_json)
