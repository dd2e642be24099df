"""`noria run`: everything on this host."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import click
import setproctitle

from noria.cli.loading import settings_of
from noria.cli.logs import set_up
from noria.engine.hazards import refuse_folder
from noria.errors import InvalidSettings
from noria.supervisor.supervisor import Supervisor, plan
from noria.web.guard import refuse_open_bind


@click.command()
@click.option("--host", default=None, help="Where the gateway listens; anything but loopback needs a token.")
@click.option("--port", type=click.IntRange(0, 65535), default=None, help="The gateway's port.")
@click.option("--no-gateway", is_flag=True, help="Without HTTP.")
@click.option("--no-scheduler", is_flag=True, help="Without schedules.")
@click.pass_context
def run(ctx: click.Context, host: str | None, port: int | None, no_gateway: bool, no_scheduler: bool) -> None:
    """Run everything on this host: engine, gateway, scheduler and supervised workers; with RabbitMQ there is no engine.

    TERM and INT end it in order, a second INT and QUIT at once, HUP replaces workers one by one, TSTP and CONT pause and
    resume them. Pools of workers are declared in noria.toml.
    """
    settings = settings_of(ctx, host=host, port=port)
    if settings.app is None:
        raise InvalidSettings("no application is named: use -A module:app, NORIA_APP, or app in noria.toml")
    refuse_open_bind(settings)
    if settings.is_embedded:
        refuse_folder(settings.path)
    set_up(settings, "supervisor")
    setproctitle.setproctitle("noria supervisor")
    os.environ["NORIA_APP"] = settings.app
    os.environ["NORIA_BROKER"] = settings.broker
    if settings.store is not None:
        os.environ["NORIA_STORE"] = settings.store
    os.environ["NORIA_HOST"] = settings.host
    os.environ["NORIA_PORT"] = str(settings.port)
    os.environ.pop("PORT", None)
    if ctx.obj["config"] is not None:
        os.environ["NORIA_CONFIG"] = str(ctx.obj["config"].resolve())
    engine, others = plan(settings, gateway=not no_gateway, scheduler=not no_scheduler)

    async def main() -> None:
        await Supervisor(settings.path, engine, others, Path(f"{settings.path}.processes")).run()

    asyncio.run(main())
