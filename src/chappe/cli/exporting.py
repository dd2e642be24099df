"""`chappe export`: what systemd, Prometheus and Grafana are told of this application."""

from __future__ import annotations

import getpass
import json
import re
import sys
from pathlib import Path
from typing import Final

import click

from chappe.cli.loading import named_app, settings_of
from chappe.cli.monitoring import DEFAULTS, dashboard_of, rules_of
from chappe.errors import InvalidSettings
from chappe.settings import Settings

_UNIT: Final = Path(__file__).parent / "systemd.service"
_AFTER_GRACE: Final = 15.0  # seconds: the engine ends last, and each process is killed five seconds after its grace


@click.group()
def export() -> None:
    """Write what others need: systemd, Prometheus, Grafana."""


@export.command()
@click.option("--user", default=None, help="Who runs it; you without this.")
@click.option("--name", default=None, help="Of the unit; that of the application without this.")
@click.pass_context
def systemd(ctx: click.Context, user: str | None, name: str | None) -> None:
    """Print a unit of systemd that runs chappe run in this folder; secrets belong into /etc/NAME.env."""
    settings = settings_of(ctx)
    named = named_app(settings)
    command = [str(Path(sys.argv[0]).absolute()), "-A", named]
    if ctx.obj["config"] is not None:
        command += ["--config", str(ctx.obj["config"].absolute())]
    click.echo(unit(settings, command, name or _name_of(settings), user or getpass.getuser(), Path.cwd()), nl=False)


@export.command("prometheus-rules")
@click.pass_context
def prometheus_rules(ctx: click.Context) -> None:
    """Print the alerts of chappe.toml as rules of Prometheus, or a few that everybody needs where it has none."""
    settings = settings_of(ctx)
    click.echo(rules_of(_name_of(settings), settings.alerts or DEFAULTS), nl=False)


@export.command()
@click.pass_context
def grafana(ctx: click.Context) -> None:
    """Print a dashboard of Grafana over the metrics of the gateway, as JSON to be imported."""
    click.echo(json.dumps(dashboard_of(_name_of(settings_of(ctx))), indent=2))


def _name_of(settings: Settings) -> str:
    return named_app(settings).partition(":")[0].rpartition(".")[2]


def unit(settings: Settings, command: list[str], name: str, user: str, folder: Path) -> str:
    """Return the unit that runs a command of Chappe. Raises `InvalidSettings` for what no unit can say."""
    for what, given in (("--name", name), ("--user", user)):
        if not re.fullmatch(r"[\w.@-]{1,64}", given):
            raise InvalidSettings(f"{what} {given!r} cannot be written in a unit of systemd; use letters, digits, dots and dashes")
    if "\n" in str(folder):
        raise InvalidSettings("a folder with a line break in its name cannot be written in a unit of systemd")
    said = " ".join(_quoted(part) for part in [*command, "run"])
    state = "" if settings.is_file or settings.state_dir else f"StateDirectory={name}\n"
    return _UNIT.read_text().format(
        name=name, user=user, folder=_escaped(str(folder)), command=said, state=state, patience=f"{settings.grace + _AFTER_GRACE:g}"
    )


def _escaped(text: str) -> str:
    return text.replace("%", "%%")


def _quoted(text: str) -> str:
    """Return a word of a command line as systemd reads it: % and $ have a meaning there."""
    text = _escaped(text).replace("$", "$$")
    return text if not re.search(r"[\s\"'\\;]", text) else '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
