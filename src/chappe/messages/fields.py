"""Which types the fields of a message may have: those that JSON can carry there and back."""

from __future__ import annotations

import enum
import typing
from collections.abc import Iterator
from typing import Any, Final

import msgspec
from msgspec import Struct, inspect

from chappe.errors import DefinitionError

ADVICE: Final = "define or import it at the top of the module, and not only under TYPE_CHECKING"


class Examined(Struct, frozen=True):
    """What the types of a message's fields say about their values.

    `finite` are the fields that may hold a float. `is_exact`: whatever their values are, once they were checked, they cannot be
    changed, and arrive as they are, except for NaN and infinity, which are written as null. `has_times`: of a time, `==` hides its zone.
    """

    finite: tuple[str, ...] = ()
    is_exact: bool = True
    has_times: bool = False


def examine(message: type[Any], *, is_last: bool = False) -> Examined | None:
    """Look at the types of all fields, or return nothing if one of them names something that is not there yet, unless it `is_last`.

    Raises `DefinitionError` for the first field that could be sent but never read again, or whose default does not fit.
    """
    try:
        found = inspect.type_info(message)
        _ = msgspec.json.Decoder(message)
        declared = msgspec.structs.fields(message)
    except NameError as error:
        if not is_last:
            return None
        raise DefinitionError(f"{message.__name__}: the type of a field cannot be resolved ({error}); {ADVICE}") from None
    except TypeError as error:
        raise DefinitionError(_unsupported(message, error)) from None
    assert isinstance(found, inspect.StructType)
    for field in found.fields:
        if (wrong := _foreign(field.type, {message})) is not None:
            raise DefinitionError(f'{message.__name__}: field "{field.name}" {wrong}')
    for field in declared:
        refuse_default(message.__name__, field.name, field.type, field.default)
    kinds = {field.name: list(_inside(field.type, set())) for field in found.fields}
    return Examined(
        tuple(name for name, inner in kinds.items() if any(isinstance(kind, _MAY_BE_FLOATS) for kind in inner)),
        all(isinstance(kind, _EXACT) for inner in kinds.values() for kind in inner) and not any(_is_loose(field) for field in declared),
        any(isinstance(kind, inspect.TimeType) for inner in kinds.values() for kind in inner),
    )


def refuse_default(owner: str, name: str, kind: Any, default: Any) -> None:
    """Raise `DefinitionError` for a default that is no value of its field: it would be sent and never be read again."""
    if default is msgspec.NODEFAULT or default is msgspec.UNSET:
        return
    try:
        read = msgspec.convert(default, kind)
        fits = bool(read == default) and isinstance(read, enum.Enum) == isinstance(default, enum.Enum)
        fault = f"it would be {read!r}"
    except (msgspec.ValidationError, TypeError) as error:
        fits, fault = False, str(error)
    if not fits:
        raise DefinitionError(f'{owner}: the default {default!r} of field "{name}" does not fit its type ({fault}); change one of them')


_MAY_BE_FLOATS: Final = (inspect.FloatType, inspect.AnyType)
_EXACT: Final = (
    inspect.NoneType, inspect.BoolType, inspect.IntType, inspect.FloatType, inspect.StrType, inspect.BytesType, inspect.ByteArrayType,
    inspect.MemoryViewType, inspect.DateType, inspect.TimeDeltaType, inspect.UUIDType, inspect.DecimalType, inspect.EnumType,
    inspect.LiteralType, inspect.FrozenSetType, inspect.TupleType, inspect.VarTupleType, inspect.UnionType,
)  # fmt: skip
_KEYS: Final = (
    inspect.StrType, inspect.IntType, inspect.FloatType, inspect.EnumType, inspect.LiteralType, inspect.BytesType, inspect.ByteArrayType,
    inspect.DateTimeType, inspect.DateType, inspect.TimeType, inspect.TimeDeltaType, inspect.UUIDType, inspect.DecimalType,
    inspect.AnyType,
)  # fmt: skip
_PLAIN_FACTORIES: Final = (list, dict, set, frozenset, bytearray)


def _is_loose(field: msgspec.structs.FieldInfo) -> bool:
    """Tell whether a field may have a value that nobody checked, or that is left out and read as another."""
    made = field.default_factory is not msgspec.NODEFAULT and field.default_factory not in _PLAIN_FACTORIES
    return made or (msgspec.UnsetType in typing.get_args(field.type) and field.default is not msgspec.UNSET)


def _inside(kind: inspect.Type, seen: set[Any]) -> Iterator[inspect.Type]:
    """Yield a type and all types inside it."""
    yield kind
    cls = getattr(kind, "cls", None)
    if cls is not None:
        if cls in seen:
            return
        seen.add(cls)
    for one in _parts(kind):
        yield from _inside(one, seen)


def _parts(kind: inspect.Type) -> list[inspect.Type]:
    inner: list[Any] = [getattr(kind, name) for name in ("item_type", "key_type", "value_type", "type") if hasattr(kind, name)]
    inner += [*getattr(kind, "item_types", ()), *getattr(kind, "types", ()), *(field.type for field in getattr(kind, "fields", ()))]
    return [one for one in inner if isinstance(one, inspect.Type)]


def _foreign(kind: inspect.Type, seen: set[Any]) -> str | None:
    """Say of the first type inside a type that only Python knows what it is and what to do, if there is one."""
    for one in _inside(kind, seen):
        if isinstance(one, inspect.CustomType):
            name = one.cls.__qualname__
            if one.cls is object:
                return "is of type object; write Any for all that JSON can carry"
            return f"is of type {name}, which JSON cannot carry; use a msgspec.Struct, a dataclass, or plain types"
        if isinstance(one, inspect.ExtType):
            return "is of type msgpack.Ext, which JSON cannot carry; use bytes"
        if isinstance(one, inspect.DictType) and not all(
            isinstance(key, _KEYS) for key in (one.key_type.types if isinstance(one.key_type, inspect.UnionType) else (one.key_type,))
        ):
            return "has keys that JSON cannot carry; use texts, numbers or enumerations as keys, or a list of pairs"
    return None


def _unsupported(message: type[Any], error: TypeError) -> str:
    """Say of which field msgspec cannot read the type, why, and what to write instead."""
    fault = str(error).partition(" - type")[0]
    where = next((f'field "{field.name}"' for field in msgspec.structs.fields(message) if not _is_supported(field.type)), "a field")
    if "Enums must" in fault:
        return f"{message.__name__}: {where}: {fault}; give its members texts or whole numbers, and keep other values beside it"
    if "unions may not" in fault:
        return f"{message.__name__}: {where}: {fault}: JSON could not tell them apart; write one of them, or Structs with a tag= each"
    if "typing.Self" in fault:
        return f"{message.__name__}: {where}: {fault}; write the name of the class, as a text"
    return f"{message.__name__}: {where}: {error}; use a msgspec.Struct, a dataclass, or plain types"


def _is_supported(kind: Any) -> bool:
    try:
        _ = msgspec.json.Decoder(kind)
    except TypeError:
        return False
    return True
