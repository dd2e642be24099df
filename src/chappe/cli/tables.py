"""What the verbs print: tables for people, JSON for programs."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.table import Table

from chappe.messages.codec import decode_plain
from chappe.messages.envelope import Envelope


def show(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], *, as_json: bool, title: str = "") -> None:
    """Print rows to stdout; control characters in them are escaped."""
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(rows), indent=2).decode())
        return
    table = Table(title=title or None, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in columns:
        number = bool(rows) and all(isinstance(row.get(column), int) for row in rows)
        table.add_column(column, justify="right" if number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_cell(row.get(column)) for column in columns))
    Console(highlight=False, markup=False).print(table)


def body_of(envelope: Envelope) -> Any:
    """Return the body decoded, or what it is instead."""
    try:
        body = decode_plain(envelope.body, envelope.content_type)
        msgspec.json.encode(body)  # MessagePack has values that cannot be shown as JSON
    except (ValueError, TypeError, RecursionError):
        return f"<{len(envelope.body)} bytes of {envelope.content_type}>"
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
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)
