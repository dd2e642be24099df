"""`chappe dead`: what could not be handled, to be understood, edited and tried again."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import click
import msgspec

from chappe.cli.loading import bare_app, run_with, settings_of
from chappe.cli.tables import body_of, show, when
from chappe.cli.terminal import say
from chappe.connection import Connection
from chappe.engines.contract.letters import Letter
from chappe.errors import InvalidMessage, Rejected
from chappe.failures import first_line, printable


@click.group()
def dead() -> None:
    """Dead letters: list, show, edit, retry, discard."""


@dead.command("list")
@click.option("-Q", "--queue", default=None, help="Of one queue only.")
@click.option("--after", default=0, type=click.IntRange(0, 2**63 - 1), help="Numbers larger than this one.")
@click.option("-n", "--limit", default=50, show_default=True, type=click.IntRange(1, 1000))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def list_letters(ctx: click.Context, queue: str | None, after: int, limit: int, as_json: bool) -> None:
    """Show dead letters by number."""

    async def work(connection: Connection) -> list[Letter]:
        return await connection.store.letters(queue, after=after, limit=limit)

    letters = run_with(bare_app(settings_of(ctx)), work)
    rows = [_row(letter) for letter in letters]
    show(rows, ("number", "queue", "type", "reason", "attempts", "died", "last error"), as_json=as_json)


@dead.command("show")
@click.argument("number", type=click.IntRange(0, 2**63 - 1))
@click.pass_context
def show_letter(ctx: click.Context, number: int) -> None:
    """Show one dead letter with its body, error and history, as JSON."""

    async def work(connection: Connection) -> Letter:
        return await connection.store.letter(number)

    letter = run_with(bare_app(settings_of(ctx)), work)
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

    async def work(connection: Connection) -> None:
        await connection.store.edit_letter(number, text.encode())

    run_with(bare_app(settings_of(ctx)), work)


@dead.command("retry")
@click.argument("numbers", nargs=-1, type=click.IntRange(0, 2**63 - 1))
@click.option("-Q", "--queue", default=None, help="All of one queue.")
@click.pass_context
def retry_letters(ctx: click.Context, numbers: tuple[int, ...], queue: str | None) -> None:
    """Make dead letters ready again, with fresh attempts."""
    click.echo(_all_or_some(ctx, numbers, queue, "retry"))


@dead.command("discard")
@click.argument("numbers", nargs=-1, type=click.IntRange(0, 2**63 - 1))
@click.option("-Q", "--queue", default=None, help="All of one queue.")
@click.option("-f", "--force", is_flag=True, help="Do not ask.")
@click.pass_context
def discard_letters(ctx: click.Context, numbers: tuple[int, ...], queue: str | None, force: bool) -> None:
    """Delete dead letters for good."""
    _refuse_unclear(numbers, queue)
    if not force:
        what = f"all dead letters of {queue}" if queue else f"dead letter{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}"
        click.confirm(f"Delete {printable(what)} for good?", abort=True, err=True)
    click.echo(_all_or_some(ctx, numbers, queue, "discard"))


def _all_or_some(ctx: click.Context, numbers: tuple[int, ...], queue: str | None, verb: str) -> int:
    _refuse_unclear(numbers, queue)

    async def work(connection: Connection) -> int:
        act = connection.store.retry_letters if verb == "retry" else connection.store.discard_letters
        if numbers:
            return await act(numbers)
        found: list[int] = []
        while letters := await connection.store.letters(queue, after=found[-1] if found else 0, limit=500):
            found += [letter.number for letter in letters]
        count = 0  # first all numbers, then the act: what dies again meanwhile is not acted on twice
        for first in range(0, len(found), 500):
            count += await _each(act, found[first : first + 500])
        return count

    return run_with(bare_app(settings_of(ctx)), work)


async def _each(act: Callable[[Sequence[int]], Awaitable[int]], numbers: Sequence[int]) -> int:
    """Act on many at once; if one of them is refused, on each by itself, and say which are."""
    try:
        return await act(numbers)
    except Rejected as error:
        if len(numbers) == 1:
            say(f"chappe: {error}")
            return 0
        half = len(numbers) // 2
        return await _each(act, numbers[:half]) + await _each(act, numbers[half:])


def _refuse_unclear(numbers: tuple[int, ...], queue: str | None) -> None:
    if bool(numbers) == (queue is not None):
        raise click.UsageError("name numbers, or a queue with -Q")


def _row(letter: Letter) -> dict[str, Any]:
    return {
        "number": letter.number, "queue": letter.queue, "type": letter.envelope.type, "reason": letter.reason,
        "attempts": letter.attempts, "died": when(letter.died_at), "last error": first_line(letter.error),
    }  # fmt: skip
