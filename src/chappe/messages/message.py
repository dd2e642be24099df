"""Commands and events: frozen, typed, checked when they are built."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, Unpack, dataclass_transform

import msgspec

from chappe.errors import InvalidCapability, InvalidMessage
from chappe.messages.capabilities import Capabilities, MessageSpec, complete, refuse_unknown
from chappe.messages.codec import find_faults
from chappe.messages.template import check_fields

_STRUCT_KEYWORDS = frozenset({"tag", "tag_field", "rename", "omit_defaults", "forbid_unknown_fields", "frozen",
                              "eq", "order", "kw_only", "repr_omit_defaults", "array_like", "gc", "weakref",
                              "dict", "cache_hash"})  # fmt: skip

if TYPE_CHECKING:

    @dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(msgspec.field,))
    class Message:
        """A typed, frozen value that travels; validated when it is built and when it is decoded."""

        __spec__: ClassVar[MessageSpec]
        __is_command__: ClassVar[bool]
        __struct_fields__: ClassVar[tuple[str, ...]]

        def __init_subclass__(cls, **capabilities: Unpack[Capabilities]) -> None: ...

else:

    class MessageMeta(type(msgspec.Struct)):
        """Takes the capabilities off the class keywords; what remains is msgspec's."""

        def __new__(mcls, name, bases, namespace, /, **keywords):
            given = {k: keywords.pop(k) for k in list(keywords) if k not in _STRUCT_KEYWORDS}
            refuse_unknown(name, given)
            for keyword in ("frozen", "kw_only", "forbid_unknown_fields"):
                keywords.setdefault(keyword, True)
            cls = super().__new__(mcls, name, bases, namespace, **keywords)
            inherited = {
                k: v
                for base in reversed(cls.__mro__[1:])
                for k, v in base.__dict__.get("__given__", {}).items()
                if k not in ("name", "aliases")
            }
            type.__setattr__(cls, "__given__", {**inherited, **given})
            if hasattr(cls, "merge"):
                refuse_other_merge(name, cls)
            spec = complete(name, cls.__given__, merges=hasattr(cls, "merge"), is_command=cls.__is_command__)
            type.__setattr__(cls, "__spec__", spec)
            check_fields(name, cls.__spec__, cls.__struct_fields__)
            return cls

        def __call__(cls, /, *positional, **values):
            if positional:
                fields = ", ".join(f"{field}=…" for field in cls.__struct_fields__)
                raise TypeError(f"{cls.__name__} takes its fields by name: {cls.__name__}({fields})")
            try:
                return msgspec.convert(values, cls)
            except msgspec.ValidationError:
                raise InvalidMessage(cls.__spec__.name, find_faults(cls, values)) from None

    class Message(msgspec.Struct, metaclass=MessageMeta):
        """A typed, frozen value that travels; validated when it is built and when it is decoded."""

        __is_command__: ClassVar[bool] = False


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


class Command(Message):
    """What somebody should do: imperative, one owner, exactly one queue."""

    __is_command__: ClassVar[bool] = True


class Event(Message):
    """What happened: past tense, any number of subscribers."""


M = TypeVar("M", bound=Message)


def replace(message: M, /, **changes: Any) -> M:
    """Return a copy with some fields changed, checked like a new one."""
    values = {field: getattr(message, field) for field in message.__struct_fields__}
    return type(message)(**{**values, **changes})
