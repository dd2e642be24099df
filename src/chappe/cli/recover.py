"""`chappe recover`: saves what can be read of a damaged file into a new one."""

from __future__ import annotations

import shlex
from pathlib import Path

import click
import msgspec

from chappe.cli.loading import settings_of
from chappe.cli.tables import as_json_option, show
from chappe.cli.terminal import escaped_json, say
from chappe.engines.file.recovery import Report
from chappe.engines.file.recovery import recover as save

_COLUMNS = ("table", "read", "damaged", "lost")


@click.command()
@click.option("--to", "target", metavar="NEW.DB", type=click.Path(dir_okay=False, path_type=Path), help="The new file, on a sound disk.")
@as_json_option
@click.pass_context
def recover(ctx: click.Context, target: Path | None, as_json: bool) -> None:
    """Save what can be read of a damaged file into a new one.

    The damaged file is only read; no engine may run for it. Without --to the new file is NAME-recovered.db beside it. Shows for
    each table how many rows were read, how many of them are damaged (they end as dead letters, and are never handled), and how
    many are lost; ends with 1 if not everything was saved.
    """
    sick = settings_of(ctx).path
    report = save(sick, target or sick.with_name(f"{sick.stem}-recovered{sick.suffix}"), say)
    if as_json:
        click.echo(escaped_json({**msgspec.structs.asdict(report), "whole": report.whole}))
    else:
        rows = [msgspec.structs.asdict(part) for part in report.parts if part.read or part.lost != 0]
        show([{**row, "lost": "unknown" if row["lost"] is None else row["lost"]} for row in rows], _COLUMNS, as_json=False)
    for line in _said(report):
        say(line)
    if not report.whole:
        ctx.exit(1)


def _said(report: Report) -> list[str]:
    lines = [f"damage: {fault}" for fault in report.faults] or ["no damage was found in the structure of the file"]
    for queue in report.queues:
        lost = [f"{queue[f'{state}_lost']} {state}" for state in ("ready", "delayed", "dead") if queue[f"{state}_lost"]]
        if lost:
            lines.append(f'lost of queue "{queue["queue"]}": {", ".join(lost)}')
    lines += report.notes
    old, new = Path(report.source), Path(report.target)
    aside = shlex.quote(str(old.with_name("damaged")))
    name = shlex.quote(str(old))
    return [
        *lines,
        f"{new} is ready. To use it:",
        f"  mkdir -p {aside} && mv {name} {aside}/",
        f"  mv {name}-wal {name}-shm {aside}/ 2>/dev/null",
        f"  mv {shlex.quote(str(new))} {name}",
    ]
