"""What the verbs print: tables for people, JSON for programs."""

from __future__ import annotations

import datetime
import io
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

import click
import msgspec
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

from chappe.cli.terminal import escaped_json
from chappe.failures import printable
from chappe.messages.codec import decode_plain
from chappe.messages.envelope import Envelope
from chappe.words import counted

_WHOLE: Final = frozenset({"id", "merged_into", "number", "queue", "pid"})  # what is typed or copied is never broken over lines


_WIDEST: Final = 1_000_000_000  # characters of a line

as_json_option: Final = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def show(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], *, as_json: bool) -> None:
    """Print rows to stdout; control characters in them are escaped."""
    if as_json:
        click.echo(escaped_json(rows))
        return
    cells = [[_cell(row.get(column)) for column in columns] for row in rows]
    numbers = [bool(rows) and all(isinstance(row.get(column), int) for row in rows) for column in columns]
    is_read_by_people = sys.stdout.isatty()
    if not is_read_by_people:  # another program reads each row as one line, however long it is
        cells = [[cell.replace("\n", "\\n") for cell in row] for row in cells]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for at, (column, number) in enumerate(zip(columns, numbers, strict=True)):
        whole = max((cell_len(row[at]) for row in cells), default=0) if column in _WHOLE else None
        table.add_column(column, justify="right" if number else "left", overflow="fold", min_width=whole)
    for row in cells:
        table.add_row(*row)
    if is_read_by_people:
        Console(highlight=False, markup=False).print(table)
        return
    written = Console(file=io.StringIO(), width=_WIDEST, color_system=None, highlight=False, markup=False)
    with written.capture() as lines:
        written.print(table)
    for line in lines.get().splitlines():
        click.echo(line.rstrip())


def body_of(envelope: Envelope) -> Any:
    """Return the body decoded, or what it is instead."""
    try:
        body = decode_plain(envelope.body, envelope.content_type)
        msgspec.json.encode(body)  # MessagePack has values that cannot be shown as JSON
    except (ValueError, TypeError, RecursionError):
        return f"<{counted(len(envelope.body), 'byte')} of {envelope.content_type}>"
    return body


def when(moment: float) -> str:
    """Write a time for people, in UTC; a foreign clock may have written any number."""
    try:
        return datetime.datetime.fromtimestamp(moment, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return f"<{moment!r}>"


def _cell(value: Any) -> str:
    if value is None:
        return ""
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode() if isinstance(value, dict | list) else str(value)
    return printable(text).replace("\t", "\\t")
