"""Which types the fields of a message may have: those that JSON can carry there and back."""

from __future__ import annotations

from typing import Any

from msgspec import inspect

from chappe.errors import DefinitionError


def refuse_foreign_types(message: type[Any]) -> None:
    """Raise `DefinitionError` naming the first field that could be sent but never read again."""
    try:
        found = inspect.type_info(message)
    except (NameError, TypeError) as error:
        raise DefinitionError(f"{message.__name__}: the type of a field cannot be resolved ({error}); import it at the top") from None
    assert isinstance(found, inspect.StructType)
    seen: set[type] = {message}
    for field in found.fields:
        foreign = _foreign(field.type, seen)
        if foreign is not None:
            raise DefinitionError(
                f'{message.__name__}: field "{field.name}" is of type {foreign.__qualname__}, which JSON cannot carry; '
                "use a msgspec.Struct, a dataclass, or plain types"
            )


def _foreign(kind: Any, seen: set[type]) -> type | None:
    """Return the first type inside a type that only Python knows."""
    if isinstance(kind, inspect.CustomType):
        return kind.cls
    cls = getattr(kind, "cls", None)
    if cls in seen:
        return None
    if isinstance(cls, type) and isinstance(
        kind, inspect.StructType | inspect.DataclassType | inspect.TypedDictType | inspect.NamedTupleType
    ):
        seen.add(cls)
    inner: list[Any] = [getattr(kind, name) for name in ("item_type", "key_type", "value_type", "type") if hasattr(kind, name)]
    inner += [*getattr(kind, "item_types", ()), *getattr(kind, "types", ()), *(field.type for field in getattr(kind, "fields", ()))]
    return next((foreign for one in inner if isinstance(one, inspect.Type) and (foreign := _foreign(one, seen)) is not None), None)
