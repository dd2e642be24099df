"""`chappe run`: everything on this host."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import click
import setproctitle

from chappe.binding import refuse_open_bind
from chappe.cli.loading import make_state_dir, named_app, settings_of, variables_of
from chappe.cli.logs import set_up
from chappe.engines.file.preflight import refuse_folder
from chappe.settings import Settings
from chappe.supervisor.listening import refuse_address
from chappe.supervisor.supervisor import Supervisor


@click.command()
@click.option("--host", default=None, help="Where the gateway listens; anything but loopback needs a token.")
@click.option("--port", type=click.IntRange(0, 65535), default=None, help="The gateway's port.")
@click.option("--no-gateway", is_flag=True, help="Without HTTP.")
@click.option("--no-scheduler", is_flag=True, help="Without schedules.")
@click.pass_context
def run(ctx: click.Context, host: str | None, port: int | None, no_gateway: bool, no_scheduler: bool) -> None:
    """Run everything on this host: engine, gateway, scheduler and supervised workers; only a file has an engine.

    TERM and INT end it in order, a second INT and QUIT at once, HUP takes a new release of the application into use, TSTP and
    CONT pause and resume the workers. Pools of workers are declared in chappe.toml.
    """
    settings = settings_of(ctx, host=host, port=port)
    named_app(settings)
    refuse_open_bind(settings)
    if settings.is_file:
        refuse_folder(settings.path)
    make_state_dir(settings)
    set_up(settings, "supervisor")
    setproctitle.setproctitle("chappe supervisor")
    os.environ.update(variables_of(settings, ctx.obj["config"]))
    os.environ["CHAPPE_HOST"] = settings.host
    os.environ["CHAPPE_PORT"] = str(settings.port)
    os.environ.pop("PORT", None)

    def again() -> Settings:
        return settings_of(ctx, host=host, port=port)

    async def main() -> None:
        supervisor = Supervisor(
            settings, load=again, gateway=not no_gateway, scheduler=not no_scheduler, status=Path(f"{settings.path}.processes")
        )
        if not no_gateway:
            refuse_address(settings.host, settings.port, settings.path)
        await supervisor.run()

    asyncio.run(main())
