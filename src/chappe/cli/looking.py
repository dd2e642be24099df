"""The verbs that look at a running system: queues, schedules, budgets, status, inspect, purge and openapi."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import click
import msgspec

from chappe.cli.loading import ask, find_app, run_with, settings_of
from chappe.cli.tables import as_json_option, body_of, show, when
from chappe.cli.terminal import escaped_json, say
from chappe.connection import Connection
from chappe.engines.budget import BudgetStatus
from chappe.engines.contract.fleet import PROCESS_STATES
from chappe.engines.finding import explain
from chappe.errors import NotFound
from chappe.failures import printable
from chappe.triggers.firings import firings
from chappe.words import counted, duration

_COUNTS = ("queue", "ready", "running", "delayed", "dead", "done", "consumers", "oldest", "paused")


@click.command()
@as_json_option
@click.pass_context
def queues(ctx: click.Context, as_json: bool) -> None:
    """Show the queues and how many messages are in each state."""
    rows = [msgspec.to_builtins(queue) for queue in ask(ctx, lambda connection: connection.store.overview()).queues]
    if not as_json:
        ages = [duration(q["oldest"]) if "oldest" in q else "" for q in rows]
        paused = ["paused" if q.get("paused") else "" for q in rows]
        rows = [{**q, "queue": q["name"], "ready": _about(q), "oldest": a, "paused": p} for q, a, p in zip(rows, ages, paused, strict=True)]
    show(rows, _COUNTS, as_json=as_json)


def _about(queue: dict[str, Any]) -> object:
    """Return how many are ready, and say so if that is not exact."""
    return f"about {queue['ready']}" if queue.get("is_estimate") else queue["ready"]


@click.command()
@as_json_option
@click.pass_context
def status(ctx: click.Context, as_json: bool) -> None:
    """Show the engine, the pools of each host, and the processes that are connected."""
    overview = ask(ctx, lambda connection: connection.store.overview())
    if as_json:
        show([msgspec.to_builtins(overview)], (), as_json=True)
        return
    engine = overview.engine
    if engine.postgres:
        beside = f"{engine.broker}, " if engine.broker else ""
        say(f"{beside}PostgreSQL {engine.postgres} at {engine.path}")
    elif engine.pid and engine.started_at:
        say(f"engine {engine.pid} since {when(engine.started_at)} UTC, SQLite {engine.sqlite}, {engine.path}")
    else:
        say(f"no engine runs; the file is {engine.path}")
    if pools := [row for supervisor in overview.supervisors for row in _pools(supervisor)]:
        show(pools, ("host", "pool", "processes", "state", "queues"), as_json=False)
        say("")
    rows = [
        {**c.info, "role": c.role, "holding": c.holding, "queues": _joined(c.info.get("queues"))}
        for c in overview.clients
        if c.role not in ("client", "supervisor")
    ]
    show(rows, ("role", "pool", "pid", "concurrency", "holding", "queues"), as_json=False)


def _pools(supervisor: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a row for each pool of a host, as its supervisor tells of them."""
    rows: list[dict[str, Any]] = []
    for name, pool in supervisor["pools"].items():
        states = [process["state"] for process in pool["processes"]]
        counts = ", ".join(f"{states.count(state)} {state}" for state in PROCESS_STATES if state in states)
        least, most = pool["bounds"]
        wanted = str(pool["wanted"]) if least == most else f"{pool['wanted']} of {least}..{most}"
        rows.append({"host": supervisor["host"], "pool": name, "processes": wanted, "state": counts, "queues": _joined(pool["queues"])})
    return rows


def _joined(told: object) -> object:
    """Return a list as one text; what else a process tells in its place is shown as it is."""
    return ", ".join(map(str, cast("list[object]", told))) if isinstance(told, list) else told


@click.command()
@as_json_option
@click.pass_context
def schedules(ctx: click.Context, as_json: bool) -> None:
    """Show the schedules of the application, when each fires next, and which are paused."""
    app = find_app(settings_of(ctx))

    found = run_with(app, lambda connection: firings(app.schedules, connection.store, app.bus.now()))
    rows = [msgspec.structs.asdict(one) for one in found]
    if not as_json:
        rows = [{**row, "schedule": row["name"], "next": "paused" if row["paused"] else when(row["next"])} for row in rows]
    show(rows, ("schedule", "message", "trigger", "misfire", "next"), as_json=as_json)


@click.command()
@as_json_option
@click.pass_context
def budgets(ctx: click.Context, as_json: bool) -> None:
    """Show how often third parties may be called, what is left of it, and what was learned from their refusals."""
    found = ask(ctx, lambda connection: connection.store.budgets())
    rows = [msgspec.structs.asdict(one) if as_json else _budget(one) for one in found]
    show(rows, ("budget", "every", "next", "limit", "left", "learned"), as_json=as_json)


def _budget(one: BudgetStatus) -> dict[str, Any]:
    row = {"budget": one.name, "every": duration(one.interval), "next": f"in {duration(one.opens)}" if one.opens > 0 else "now"}
    if not one.is_learned:
        return row
    if one.limit is None or one.window is None or one.since is None:
        return row | {"every": "", "learned": "nothing yet"}
    return row | {"limit": f"{one.limit} in {duration(one.window)}", "left": one.left, "learned": when(one.since)}


@click.command()
@click.argument("what")
@click.option("--state", type=click.Choice(["ready", "running", "delayed"]), default=None, help="Of a queue: which messages.")
@click.option("-n", "--limit", default=20, show_default=True, type=click.IntRange(1, 1000))
@as_json_option
@click.pass_context
def inspect(ctx: click.Context, what: str, state: str | None, limit: int, as_json: bool) -> None:
    """Show the messages of a queue, or where a message is by its id."""

    async def work(connection: Connection) -> tuple[bool, list[dict[str, Any]]]:
        names = [queue.name for queue in (await connection.store.overview()).queues]
        if what not in names:
            try:
                found = await connection.store.state(what)
            except NotFound as error:
                raise NotFound(
                    f'"{what}" is neither a queue ({", ".join(names) or "none are declared"}) nor a known message: {error}'
                ) from None
            result = None if found.result is None else msgspec.json.decode(found.result)
            progress = None if found.progress is None else dict(zip(("done", "total", "text"), found.progress, strict=True))
            return True, [{**msgspec.structs.asdict(found), "result": result, "progress": progress}]
        rows: list[dict[str, Any]] = []
        for one in (state,) if state else ("running", "ready", "delayed"):
            for message in (await connection.store.look(what, one, limit=limit)).messages:
                envelope = message.envelope
                rows.append({
                    "state": one, "id": envelope.id, "type": envelope.type, "attempt": message.attempt,
                    "sent": when(envelope.timestamp), "body": body_of(envelope),
                })  # fmt: skip
        return False, rows[:limit]

    single, rows = ask(ctx, work)
    if single and not as_json and (far := rows[0]["progress"]):
        rows[0]["progress"] = f"{far['done']}/{far['total']} {far['text']}".rstrip()
    show(
        rows,
        ("id", "type", "state", "queue", "progress", "result", "error", "merged_into")
        if single
        else ("state", "id", "type", "attempt", "sent", "body"),
        as_json=as_json,
    )


@click.command()
@click.argument("message_id", metavar="ID")
@as_json_option
@click.pass_context
def why(ctx: click.Context, message_id: str, as_json: bool) -> None:
    """Say why a message does not run now: every reason, and when it ends where that can be known."""
    app = find_app(settings_of(ctx))

    async def work(connection: Connection) -> list[dict[str, Any]]:
        found = await connection.store.find(message_id)
        if not found:
            state = await connection.store.state(message_id)
            return [{"queue": state.queue, "state": state.state, "reason": state.state, "text": state.error or "it has ended", "until": ""}]
        told = await explain(connection.store, found, app.bus.now(), app.registry.takes)
        return [
            {
                "queue": message.queue,
                "state": message.state,
                "reason": reason.reason,
                "text": f"{reason.text}{f' ({reason.of})' if reason.of else ''}",
                "until": "" if reason.until is None else reason.until if as_json else when(reason.until),
            }
            for message, reasons in zip(found, told, strict=True)
            for reason in reasons
        ]

    show(run_with(app, work), ("queue", "state", "reason", "text", "until"), as_json=as_json)


@click.command()
@click.argument("queue")
@click.option("-f", "--force", is_flag=True, help="Do not ask.")
@click.option("--delete", is_flag=True, help="Delete the empty queue and its bindings too.")
@click.pass_context
def purge(ctx: click.Context, queue: str, force: bool, delete: bool) -> None:
    """Delete what is ready and delayed in a queue; what is running or dead stays."""
    depth = ask(ctx, lambda connection: connection.broker.depth(queue))
    waiting = depth.ready + depth.delayed
    if not force:
        typed = click.prompt(
            f"{counted(waiting, 'message')} of {printable(queue)} would be deleted for good. Type the queue's name to go on",
            err=True,
        )
        if typed != queue:
            raise click.Abort
    click.echo(ask(ctx, lambda connection: connection.broker.purge(queue, delete=delete)))


@click.command()
@click.pass_context
def openapi(ctx: click.Context) -> None:
    """Print the OpenAPI document of the application's gateway."""
    import importlib.metadata

    from chappe.web.openapi import document

    app = find_app(settings_of(ctx))
    click.echo(escaped_json(document(app, importlib.metadata.version("chappe"))))
