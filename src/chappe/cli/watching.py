"""`chappe watch`: how far a batch is, until all of it has ended."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Final

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from chappe.batches import BatchState, state_of
from chappe.cli.loading import ask
from chappe.cli.terminal import escaped_json, say
from chappe.connection import Connection
from chappe.words import counted, duration

_LOOK: Final = 0.5
_SAY: Final = 10.0


@click.command()
@click.argument("batch")
@click.option("--once", is_flag=True, help="Do not wait for the end.")
@click.pass_context
def watch(ctx: click.Context, batch: str, once: bool) -> None:
    """Show how far a batch is until all of it has ended, then print it as JSON; exit code 1 if some ended as dead letters."""

    async def work(connection: Connection) -> BatchState:
        bar, said = _bar(), float("-inf")
        with bar:
            shown = bar.add_task(batch, total=None, rest="")
            while True:
                state = await state_of(connection, batch)
                rest = _rest(state)
                bar.update(shown, total=state.total, completed=state.ended, rest=rest)
                if once or state.is_over:
                    return state
                if not sys.stderr.isatty() and time.monotonic() - said >= _SAY:
                    say(f"{state.ended} of {state.total} {rest}".rstrip())
                    said = time.monotonic()
                await asyncio.sleep(_LOOK)

    state = ask(ctx, work)
    click.echo(escaped_json(state.as_json()))
    if state.dead:
        say(f'{counted(state.dead, "dead letter")} of {state.total}; "chappe dead list" shows them')
    ctx.exit(1 if state.dead else 0)


def _bar() -> Progress:
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rest]}", markup=False))
    return Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())


def _rest(state: BatchState) -> str:
    left = state.left(time.time())
    parts = [f"{state.dead} dead"] if state.dead else []
    if left and not state.is_over:
        parts += [f"{state.ended / (time.time() - state.began_at):.1f} a second", f"{duration(left)} left"]
    return ", ".join(parts)
