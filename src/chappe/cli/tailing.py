"""`chappe logs`: what the processes of a pool wrote to its log file, and what they write now."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

import click

from chappe.cli.loading import settings_of
from chappe.errors import InvalidSettings, NotFound
from chappe.failures import printable

_LOOK: Final = 0.2  # seconds


@click.command()
@click.argument("pool")
@click.option("-f", "--follow", is_flag=True, help="Go on with what is written, until Ctrl-C.")
@click.option("-n", "--lines", default=50, show_default=True, type=click.IntRange(0), help="So many of the last lines first.")
@click.pass_context
def logs(ctx: click.Context, pool: str, follow: bool, lines: int) -> None:
    """Print what the processes of a pool wrote to its log file on this host."""
    settings = settings_of(ctx)
    if pool not in settings.pools:
        raise NotFound(f'no pool is called "{printable(pool)}"; the pools of chappe.toml are: {", ".join(settings.pools)}')
    file = settings.pools[pool].log
    if file is None:
        raise InvalidSettings(f'pools.{pool}: it has no log, so it writes where chappe run writes; set log = "{pool}.log" in chappe.toml')
    try:
        for line in tail(Path(file), lines, follow=follow):
            click.echo(printable(line.decode("utf-8", "backslashreplace")))
    except FileNotFoundError:
        raise NotFound(f"{file} does not exist yet: no process of {pool} has started") from None
    except KeyboardInterrupt:
        return


def tail(file: Path, lines: int, *, follow: bool) -> Iterator[bytes]:
    """Return the last lines of a file, and then those that are added, also to another file that takes its place."""
    log = file.open("rb")
    try:
        yield from (line.rstrip(b"\n") for line in deque(log, maxlen=lines))
        begun = b""
        while follow:
            for line in log:
                begun += line
                if begun.endswith(b"\n"):
                    yield begun[:-1]
                    begun = b""
            if _is_replaced(log, file):
                log.close()
                log, begun = file.open("rb"), b""
            else:
                time.sleep(_LOOK)
    finally:
        log.close()


def _is_replaced(log: BinaryIO, file: Path) -> bool:
    """Tell whether a file was moved away or emptied, and there is another."""
    try:
        there = file.stat()
    except OSError:
        return False
    return not os.path.samestat(there, os.fstat(log.fileno())) or there.st_size < log.tell()
