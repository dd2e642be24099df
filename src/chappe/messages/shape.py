"""What the class of a message may look like: its options, the names of its fields, and its `merge`."""

from __future__ import annotations

import contextlib
import inspect
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from chappe.errors import DefinitionError, InvalidCapability

# What msgspec offers and a message cannot be: the value that is refused, and why.
_NO_OPTIONS = {
    "frozen": (False, "messages are values that never change; make a changed copy with replace(message, field=…)"),
    "kw_only": (False, "messages take their fields by name"),
    "array_like": (True, "a message is an object in JSON, so that fields can be added; use array_like for Structs inside it"),
}


def refuse_options(owner: str, keywords: Mapping[str, Any]) -> None:
    """Raise `InvalidCapability` for options of msgspec that a message cannot have."""
    for keyword, (wrong, why) in _NO_OPTIONS.items():
        if keyword in keywords and bool(keywords[keyword]) is wrong:
            raise InvalidCapability(f"{owner}: {keyword}={keywords[keyword]!r} is not possible: {why}")


def refuse_field_names(owner: str, fields: Sequence[str]) -> None:
    """Raise `DefinitionError` for a field that would hide what every message has."""
    for field in fields:
        if field == "merge" or (field.startswith("__") and field.endswith("__")):
            raise DefinitionError(
                f'{owner}: a field cannot be called "{field}", which means something else of a message; '
                f'call it otherwise, with msgspec.field(name="{field}") to keep the name in JSON'
            )


def names_around(qualname: str, module: Mapping[str, Any]) -> dict[str, Any]:
    """Return the local names of the running functions and class bodies in which something of this qualified name is declared."""
    names: dict[str, Any] = {}
    frame = sys._getframe(1)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - the way to see where a declaration stands
    while frame is not None:
        if frame.f_globals is module and qualname.startswith(f"{frame.f_code.co_qualname}."):
            names = {**frame.f_locals, **names}
        frame = frame.f_back
    return names


def resolve_local_names(namespace: dict[str, Any]) -> None:
    """Resolve the annotations of a class inside a function that are texts: nobody can look up the names around it later."""
    qualname, written = namespace.get("__qualname__", ""), namespace.get("__annotations__", {})
    if "<locals>." not in qualname or not any(isinstance(kind, str) for kind in written.values()):
        return
    module = getattr(sys.modules.get(namespace.get("__module__", "")), "__dict__", {})
    around = names_around(qualname, module)
    for name, kind in list(written.items()):
        if isinstance(kind, str):
            with contextlib.suppress(NameError, AttributeError, SyntaxError, TypeError):  # what is not there yet is looked up later
                written[name] = eval(kind, module, {**around, **namespace})  # noqa: S307 - the program's own text


def refuse_other_merge(owner: str, message: type) -> None:
    """Raise `InvalidCapability` unless `merge` can be called with the newer one of two messages."""
    found = inspect.getattr_static(message, "merge")
    wanted = f"{owner}: merge must be a method: def merge(self, newer: Self) -> Self"
    if not inspect.isfunction(found) or inspect.iscoroutinefunction(found) or inspect.isgeneratorfunction(found):
        raise InvalidCapability(wanted)
    try:
        inspect.signature(found).bind(None, None)
    except TypeError as error:
        raise InvalidCapability(f"{wanted} ({error})") from None
