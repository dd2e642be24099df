"""`chappe send` and `chappe publish`: the same door as Python and HTTP, from the terminal."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any, cast

import click
import msgspec

from chappe.app import App
from chappe.cli.loading import find_app, settings_of
from chappe.cli.seconds import SECONDS
from chappe.cli.tables import as_json_option
from chappe.cli.terminal import escaped_json, say
from chappe.errors import ChappeError, InvalidMessage, UnknownMessage
from chappe.failures import summarize
from chappe.messages.bounds import excess_of
from chappe.messages.codec import decode_body, encode_json
from chappe.messages.message import Command, Event, Message
from chappe.messages.values import result_of


def parse(app: App, name: str, words: tuple[str, ...], base: type[Message]) -> Message:
    """Build a message from `field=text`, `field:=json`, one JSON object, or `-` for JSON on stdin."""
    kind = app.registry.message(name)
    if not issubclass(kind, base):
        raise UnknownMessage(f'"{name}" is {"an event: use chappe publish" if issubclass(kind, Event) else "a command: use chappe send"}')
    if words == ("-",):
        return _decoded(kind, name, sys.stdin.buffer.read())
    if len(words) == 1 and words[0].lstrip().startswith("{"):
        return _decoded(kind, name, os.fsencode(words[0]))
    fields = {field.encode_name: field for field in msgspec.structs.fields(cast("Any", kind))}
    values: dict[str, Any] = {}
    for word in words:
        given, separator, text = word.partition("=")
        field = given.removesuffix(":")
        if not separator or not field:
            raise click.UsageError(f'"{word}" is not understood; write field=text, field:=json, or one JSON object')
        if field in values:
            raise click.UsageError(f'"{field}" is given twice; name each field once')
        if not _is_text(word):
            raise InvalidMessage(name, {f"$.{field!a}": "the terminal sent what is no UTF-8; send such bytes as base64"})
        values[field] = _parsed(name, field, text) if given.endswith(":") else text
        if field == given and field in fields:
            values[field] = _lenient(fields[field].type, text)
    return decode_body(kind, name, encode_json(values))


def _decoded(kind: type[Message], name: str, body: bytes) -> Message:
    """Decode one JSON object as HTTP does."""
    if excess := excess_of(body):
        raise InvalidMessage(name, {"$": f"the JSON is {excess[0]}; {excess[1]}"})
    return decode_body(kind, name, body)


def _is_text(word: str) -> bool:
    """Tell whether a word of the command line came as UTF-8; Python keeps other bytes as surrogates."""
    try:
        word.encode()
    except UnicodeEncodeError:
        return False
    return True


def _parsed(name: str, field: str, text: str) -> Any:
    """Read the JSON of one field."""
    if excess := excess_of(text.encode()):
        raise InvalidMessage(name, {f"$.{field}": f"the JSON is {excess[0]}; {excess[1]}"})
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidMessage(name, {f"$.{field}": f"not JSON: {error}"}) from None


def _lenient(kind: Any, text: str) -> Any:
    """Read text as the field's own type, where JSON would want a number or a boolean."""
    try:
        return msgspec.convert(text, kind, strict=False)
    except msgspec.ValidationError:
        return text


@click.command()
@click.argument("name")
@click.argument("fields", nargs=-1)
@click.option("--wait", type=SECONDS, default=None, metavar="SECONDS", help="Wait for the result and print it.")
@click.option("--delay", type=SECONDS, default=None, metavar="SECONDS", help="Not before so many seconds.")
@click.option("--priority", type=click.IntRange(-(2**31), 2**31 - 1), default=None, help="Larger is served first.")
@click.option("--idempotency-key", default=None, help="The same key and body are taken once.")
@as_json_option
@click.pass_context
def send(ctx: click.Context, name: str, fields: tuple[str, ...], wait: float | None, as_json: bool, **options: Any) -> None:
    """Send a command: chappe send sync.property property_id=42 what:='["rates"]'."""
    app = find_app(settings_of(ctx))
    command = parse(app, name, fields, Command)
    if command.__spec__.inline and any(value is not None for value in options.values()):
        raise click.UsageError(f"{name} is inline, handled where it is sent: it takes no delay, priority or idempotency key")

    async def run() -> Any:
        try:
            if wait is not None or command.__spec__.inline:
                assert isinstance(command, Command)
                result = await app.aask(command, timeout=30.0 if wait is None else wait, **options)
                written, missing = result_of(result)
                if missing is not None:
                    raise ChappeError(f"{name} is {missing}")
                return {"result": None if written is None else msgspec.Raw(written)}
            receipt = await app.asend(command, **options)
            return {"id": receipt.id, "outcome": receipt.outcome}
        except ChappeError:
            raise
        except (asyncio.CancelledError, KeyboardInterrupt):
            raise
        except BaseException as error:  # of a handler that ran inline: people want its sentence, not our stack
            raise ChappeError(f"{name} failed: {summarize(error)}") from error
        finally:
            await app.aclose()

    answer = asyncio.run(run())
    if as_json:
        click.echo(escaped_json(answer, indent=0))
    elif "result" in answer:
        click.echo(escaped_json(answer["result"], indent=0))
    else:
        click.echo(answer["id"])
        if answer["outcome"] != "stored":
            say(f"{answer['outcome']} with {answer['id']}")


@click.command()
@click.argument("name")
@click.argument("fields", nargs=-1)
@click.pass_context
def publish(ctx: click.Context, name: str, fields: tuple[str, ...]) -> None:
    """Publish an event: chappe publish calendar.pushed channel=alpine."""
    app = find_app(settings_of(ctx))
    event = parse(app, name, fields, Event)

    async def run() -> str:
        try:
            return (await app.asend(event)).id
        finally:
            await app.aclose()

    click.echo(asyncio.run(run()))
