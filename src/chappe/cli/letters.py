"""`chappe dead`: what could not be handled, to be understood, edited and tried again."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import click
import msgspec

from chappe.cli.loading import ask
from chappe.cli.tables import as_json_option, body_of, show, when
from chappe.cli.terminal import say
from chappe.connection import Connection
from chappe.engines.contract.letters import Letter
from chappe.errors import InvalidMessage
from chappe.failure_groups import FailureGroups, act_on
from chappe.failures import first_line, printable


@click.group()
def dead() -> None:
    """Dead letters: list, show, edit, retry, discard."""


@dead.command("list")
@click.option("-Q", "--queue", default=None, help="Of one queue only.")
@click.option("--after", default=0, type=click.IntRange(0, 2**63 - 1), help="Numbers larger than this one.")
@click.option("-n", "--limit", default=50, show_default=True, type=click.IntRange(1, 1000))
@as_json_option
@click.pass_context
def list_letters(ctx: click.Context, queue: str | None, after: int, limit: int, as_json: bool) -> None:
    """Show dead letters by number."""

    letters = ask(ctx, lambda connection: connection.store.letters(queue, after=after, limit=limit))
    rows = [_row(letter) for letter in letters]
    show(rows, ("number", "queue", "type", "reason", "attempts", "died", "last error"), as_json=as_json)


@dead.command("groups")
@as_json_option
@click.pass_context
def list_groups(ctx: click.Context, as_json: bool) -> None:
    """Show dead letters, and what has failed and waits for another attempt, by cause: type, queue, class of error and place in the code."""

    async def work(connection: Connection) -> list[dict[str, Any]]:
        groups = FailureGroups()
        await groups.refresh(connection.store)
        return [
            {
                "group": group.cause.fingerprint, "letters": len(group.numbers), "waiting": group.waiting, "queue": group.cause.queue,
                "type": group.cause.type, "state": group.state(groups.said_of(group.cause.fingerprint)), "last": when(group.last_at),
                "place": group.place, "last error": group.text,
            }
            for group in groups.groups()
        ]  # fmt: skip

    rows = ask(ctx, work)
    show(rows, ("group", "letters", "waiting", "queue", "type", "state", "last", "place", "last error"), as_json=as_json)


@dead.command("show")
@click.argument("number", type=click.IntRange(0, 2**63 - 1))
@click.pass_context
def show_letter(ctx: click.Context, number: int) -> None:
    """Show one dead letter with its body, error and history, as JSON."""

    letter = ask(ctx, lambda connection: connection.store.letter(number))
    history = [{"at": when(at), "attempt": attempt, "error": error} for at, attempt, error in letter.history]
    row = {
        **_row(letter),
        "id": letter.envelope.id,
        "body": body_of(letter.envelope),
        "deaths": letter.deaths,
        "error": letter.error,
        "history": history,
    }
    show([row], (), as_json=True)


@dead.command("edit")
@click.argument("number", type=click.IntRange(0, 2**63 - 1))
@click.argument("body")
@click.pass_context
def edit_letter(ctx: click.Context, number: int, body: str) -> None:
    """Replace the body of a dead letter by other JSON ("-" reads stdin)."""
    text = sys.stdin.read() if body == "-" else body
    try:
        msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise InvalidMessage("body", {"$": f"not JSON: {error}"}) from None

    ask(ctx, lambda connection: connection.store.edit_letter(number, text.encode()))


@dead.command("retry")
@click.argument("numbers", nargs=-1, type=click.IntRange(0, 2**63 - 1))
@click.option("-Q", "--queue", default=None, help="All of one queue.")
@click.option("-g", "--group", default=None, help="All of one cause; see chappe dead groups.")
@click.pass_context
def retry_letters(ctx: click.Context, numbers: tuple[int, ...], queue: str | None, group: str | None) -> None:
    """Make dead letters ready again, with fresh attempts."""
    _refuse_unclear(numbers, queue, group)
    click.echo(_all_or_some(ctx, numbers, queue, group, "retry"))


@dead.command("discard")
@click.argument("numbers", nargs=-1, type=click.IntRange(0, 2**63 - 1))
@click.option("-Q", "--queue", default=None, help="All of one queue.")
@click.option("-g", "--group", default=None, help="All of one cause; see chappe dead groups.")
@click.option("-f", "--force", is_flag=True, help="Do not ask.")
@click.pass_context
def discard_letters(ctx: click.Context, numbers: tuple[int, ...], queue: str | None, group: str | None, force: bool) -> None:
    """Delete dead letters for good."""
    _refuse_unclear(numbers, queue, group)
    if not force:
        one = f"dead letter{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}"
        what = f"all dead letters of {queue or f'group {group}'}" if queue or group else one
        click.confirm(f"Delete {printable(what)} for good?", abort=True, err=True)
    click.echo(_all_or_some(ctx, numbers, queue, group, "discard"))


def _all_or_some(ctx: click.Context, numbers: tuple[int, ...], queue: str | None, group: str | None, verb: str) -> int:
    async def work(connection: Connection) -> int:
        found: Sequence[int] = numbers
        if queue is not None:
            found = list[int]()
            while letters := await connection.store.letters(queue, after=found[-1] if found else 0, limit=500):
                found += [letter.number for letter in letters]
        elif group is not None:
            groups = FailureGroups()
            await groups.refresh(connection.store)
            found = groups.group(group).numbers
        count = 0  # first all numbers, then the act: what dies again meanwhile is not acted on twice
        for first in range(0, len(found), 500):
            told = await act_on(connection.store, found[first : first + 500], verb)
            count += told.done
            for refused in told.refused:
                say(f"chappe: {refused}")
        return count

    return ask(ctx, work)


def _refuse_unclear(numbers: tuple[int, ...], queue: str | None, group: str | None) -> None:
    if sum((bool(numbers), queue is not None, group is not None)) != 1:
        raise click.UsageError("name numbers, a queue with -Q, or a group with -g")


def _row(letter: Letter) -> dict[str, Any]:
    error = first_line(letter.error)
    return {
        "number": letter.number, "queue": letter.queue, "type": letter.envelope.type, "reason": letter.reason,
        "attempts": letter.attempts, "died": when(letter.died_at), "last error": "" if error == letter.reason else error,
    }  # fmt: skip
