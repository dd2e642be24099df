"""`chappe archive`: what happened, and what happens, line by line."""

from __future__ import annotations

import asyncio
from typing import Any

import click

from chappe.archive.feeding import replay
from chappe.archive.follow import Heard, Since, begin_at, heard_of, loss_since, since_of
from chappe.bus.draft import new_id
from chappe.cli.loading import ask, bare_app, settings_of
from chappe.cli.tables import as_json_option, show, when
from chappe.cli.terminal import escaped_json, say
from chappe.connection import Connection
from chappe.errors import BrokerUnavailable, Unconfirmed
from chappe.words import counted


class _Since(click.ParamType[Any]):
    name = "since"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Since | None:
        return since_of(str(value))


@click.group()
def archive() -> None:
    """The archive of events: list, follow, followers, replay."""


@archive.command("list")
@click.argument("pattern", default="#")
@click.option("--since", default="24h", show_default=True, type=_Since(), help="A seq, a span like 15m or 30d, or a time (ISO 8601).")
@click.option("-n", "--limit", default=50, show_default=True, type=click.IntRange(1, 1000))
@as_json_option
@click.pass_context
def list_events(ctx: click.Context, pattern: str, since: Since | None, limit: int, as_json: bool) -> None:
    """Show archived events whose routing key fits a pattern like "bid.*", the oldest first."""

    async def work(connection: Connection) -> tuple[list[Heard], int, bool]:
        position = await begin_at(connection.store, since)
        found, loss, is_all = list[Heard](), 0, False
        while len(found) < limit and not is_all:
            page = await connection.store.archived(position, limit - len(found), pattern=pattern)
            loss += max(0, loss_since(since, position, page))
            found += [heard_of(record, lambda _: None) for record in page.records]
            position, is_all = page.cursor, page.cursor >= page.end
        return found, loss, is_all

    found, loss, is_all = ask(ctx, work)
    if loss:
        say(f"{counted(loss, 'event')} since then are kept no more")
    rows = [_row(heard) if as_json else {**_row(heard), "at": when(heard.at)} for heard in found]
    show(rows, ("seq", "at", "exchange", "key", "type", "body"), as_json=as_json)
    if not is_all and found:
        say(f"there is more: --since {found[-1].seq}")


@archive.command("follow")
@click.argument("pattern", default="#")
@click.option("--since", default=None, type=_Since(), help='A seq, a span like 15m or 30d, a time (ISO 8601), or "last" with --name.')
@click.option("--name", default=None, help="Keep the position under this name, and go on from it the next time.")
@click.pass_context
def follow_events(ctx: click.Context, pattern: str, since: Since | None, name: str | None) -> None:
    """Print events as they come, one line of JSON each; with --since those of the past first."""
    app = bare_app(settings_of(ctx))

    async def run() -> None:
        following = app.follow(pattern, since=since, name=name)
        try:
            async for heard in following:
                if heard.lost:
                    say(f"{counted(heard.lost, 'event')} before seq {heard.seq + 1} are kept no more")
                click.echo(escaped_json(_row(heard), indent=0))
        finally:
            await following.aclose()
            await app.aclose()

    try:
        asyncio.run(run())
    except KeyboardInterrupt:
        return


@archive.command("followers")
@as_json_option
@click.pass_context
def list_followers(ctx: click.Context, as_json: bool) -> None:
    """Show the followers that have a name, and how many events are behind their positions."""

    async def work(connection: Connection) -> list[dict[str, Any]]:
        end = (await connection.store.archived(0, 0)).end
        kept = await connection.store.followers()
        return [{"name": name, "position": position, "behind": max(0, end - position)} for name, position in sorted(kept.items())]

    show(ask(ctx, work), ("name", "position", "behind"), as_json=as_json)


@archive.command("replay")
@click.argument("queue")
@click.option("--since", required=True, type=_Since(), help="A seq, a span like 15m or 30d, or a time (ISO 8601).")
@click.option("--until", default=None, type=click.IntRange(0, 2**63 - 1), help="The seq of the last event; without it, all there are now.")
@click.option("--run", default=None, help="The name of an earlier replay that broke off, to go on without doubles.")
@click.pass_context
def replay_events(ctx: click.Context, queue: str, since: Since | None, until: int | None, run: str | None) -> None:
    """Put archived events once more into the queue of one subscriber, and print how many; others are not disturbed."""
    name = run or new_id()

    try:
        click.echo(ask(ctx, lambda connection: replay(connection.broker, connection.store, queue, since, until=until, run=name)))
    except (BrokerUnavailable, Unconfirmed):
        say(f"to go on without doubles, say it again with --run {name}")
        raise


def _row(heard: Heard) -> dict[str, Any]:
    body = heard.body
    return {
        "seq": heard.seq, "at": heard.at, "exchange": heard.exchange, "key": heard.routing_key, "id": heard.id, "type": heard.type,
        "body": f"<{counted(len(body), 'byte')}>" if isinstance(body, bytes) else body,
    }  # fmt: skip
