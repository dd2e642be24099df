"""Names made from the fields of a message, as in `queue="push.{channel}"`."""

from __future__ import annotations

import enum
import itertools
import string
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec
from msgspec import inspect

from chappe.errors import InvalidCapability
from chappe.messages.capabilities import MessageSpec, refuse_bad_name


def fields_of(template: str) -> list[str]:
    """Return the field names in braces, in order."""
    try:
        parts = [part[1:] for part in string.Formatter().parse(template) if part[1] is not None]
    except ValueError as error:
        raise InvalidCapability(f'"{template}" is no template: {error}; write fields in braces') from None
    for field, form, conversion in parts:
        if form or conversion:
            raise InvalidCapability(f'"{template}" is no template: write "{{{field}}}" alone, values are written as they are')
    return [str(field) for field, _, _ in parts]


def check_fields(owner: str, spec: MessageSpec, known: Sequence[str]) -> None:
    """Raise `InvalidCapability` for a template that names a field the message does not have."""
    templates = {
        "queue": spec.queue,
        "routing_key": spec.routing_key,
        "key": spec.key,
        "fair": spec.fair,
        "unique": spec.unique.key if spec.unique else None,
        "rate": spec.rate.key if spec.rate else None,
    }
    for keyword, template in (*templates.items(), *(("budget", one.name) for one in spec.budget)):
        for field in fields_of(template or ""):
            if field not in known:
                raise InvalidCapability(
                    f'{owner}: {keyword}="{template}" names "{field}", but the fields are: {", ".join(known) or "none"}'
                )


def renderer(template: str) -> Callable[[Any], str]:
    """Return the function that fills the template from a message."""
    fields = fields_of(template)
    if not fields:
        return lambda _: template
    pattern = "".join(
        literal.replace("%", "%%") + ("%s" if field is not None else "") for literal, field, _, _ in string.Formatter().parse(template)
    )
    if len(fields) == 1:
        only = fields[0]
        return lambda message: pattern % text(getattr(message, only))
    return lambda message: pattern % tuple(text(getattr(message, field)) for field in fields)


def text(value: Any) -> str:
    """Write one field's value inside a name; an enumeration gives its value."""
    return str(value.value if isinstance(value, enum.Enum) else value)


def expand(owner: str, template: str, message: type) -> list[str]:
    """Return every name that a queue template can become.

    Raises `InvalidCapability` if a field is no enumeration: all queues must be known before the first message.
    """
    fields = fields_of(template)
    if not fields:
        return [template]
    kinds = {field.name: field.type for field in msgspec.structs.fields(message)}
    choices: list[Iterable[str]] = []
    for field in fields:
        values = _values(kinds.get(field))
        if values is None:
            raise InvalidCapability(
                f'{owner}: queue="{template}": "{field}" must be a Literal or an Enum, so that every queue is known in '
                f'advance; for an open set use key="{{{field}}}", or an exchange with a routing_key'
            )
        choices.append(values)
    names = [template.format(**dict(zip(fields, chosen, strict=True))) for chosen in itertools.product(*choices)]
    for name in names:
        refuse_bad_name(f"{owner}: queue", name)
    return names


def _values(hint: Any) -> list[str] | None:
    match inspect.type_info(hint):
        case inspect.LiteralType(values=values):
            return [str(value) for value in values]
        case inspect.EnumType(cls=kind):
            return [text(member) for member in kind]
        case _:
            return None
