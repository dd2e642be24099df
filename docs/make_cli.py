"""Writes docs/reference/cli.md from the command line itself; tests/test_docs.py compares the two."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from chappe.cli import cli

_HEAD = """# Command line

This page is written by `docs/make_cli.py` from what `chappe --help` says.

Data goes to stdout, everything else goes to stderr.
Options of the program (`-A`, `--broker`, `--config`) come before the verb.
"""


def document() -> str:
    """Return the page."""
    return "\n".join([_HEAD, *_described(cli, "chappe", None, 2)]).rstrip() + "\n"


def _described(command: click.Command, path: str, parent: click.Context | None, level: int) -> Iterator[str]:
    context = click.Context(command, info_name=path.rsplit(" ", 1)[-1], parent=parent)
    yield f"{'#' * level} {path}\n"
    yield "```text"
    yield " ".join([path, *command.collect_usage_pieces(context)])
    yield "```\n"
    yield f"{_text(command)}\n"
    options = [record for p in command.params if isinstance(p, click.Option) and (record := p.get_help_record(context))]
    if options:
        yield "| option | meaning |"
        yield "| --- | --- |"
        for names, meaning in options:
            yield f"| `{_cell(names)}` | {_escaped(_cell(meaning))} |"
        yield ""
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from _described(inner, f"{path} {name}", context, min(level + 1, 3))


def _text(command: click.Command) -> str:
    paragraphs = (command.help or "").split("\n\n")
    return "\n\n".join(_escaped(" ".join(paragraph.split())) for paragraph in paragraphs)


def _escaped(text: str) -> str:
    return text.replace("*", "\\*").replace("<", "&lt;").replace("[", "\\[")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    target = Path(__file__).resolve().parent / "reference" / "cli.md"
    target.write_text(document())
    print(target)
