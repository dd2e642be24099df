"""Commands and events: frozen, typed, checked when they are built."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, Unpack, dataclass_transform

import msgspec

from chappe.errors import DefinitionError, InvalidMessage
from chappe.messages.capabilities import Capabilities, MessageSpec, complete, refuse_unknown
from chappe.messages.codec import decoder, find_faults
from chappe.messages.fields import Examined, examine
from chappe.messages.shape import refuse_field_names, refuse_options, refuse_other_merge, resolve_local_names
from chappe.messages.template import check_fields
from chappe.messages.values import refuse_not_finite, writer

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
        __struct_encode_fields__: ClassVar[tuple[str, ...]]
        __examined__: ClassVar[Examined | None]

        def __init_subclass__(cls, **capabilities: Unpack[Capabilities]) -> None: ...

else:

    class MessageMeta(type(msgspec.Struct)):
        """Takes the capabilities off the class keywords; what remains is msgspec's."""

        def __new__(mcls, name, bases, namespace, /, **keywords):
            given = {k: keywords.pop(k) for k in list(keywords) if k not in _STRUCT_KEYWORDS}
            refuse_unknown(name, given)
            refuse_options(name, keywords)
            for keyword in ("frozen", "kw_only", "forbid_unknown_fields"):
                keywords.setdefault(keyword, True)
            resolve_local_names(namespace)
            try:
                cls = super().__new__(mcls, name, bases, namespace, **keywords)
            except (TypeError, ValueError) as error:
                raise DefinitionError(f"{name}: {error}") from None
            refuse_field_names(name, cls.__struct_fields__)
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
            encoded = zip(cls.__struct_fields__, cls.__struct_encode_fields__, strict=True)
            type.__setattr__(cls, "__renamed__", {field: sent for field, sent in encoded if field != sent})
            type.__setattr__(cls, "__examined__", examine(cls))
            return cls

        def __call__(cls, /, *positional, **values):
            if positional:
                fields = ", ".join(f"{field}=…" for field in cls.__struct_fields__)
                raise TypeError(f"{cls.__name__} takes its fields by name: {cls.__name__}({fields})")
            examined = cls.__examined__ or examined_of(cls)
            try:
                message = msgspec.convert(as_sent(cls, values) if cls.__renamed__ else values, cls)
            except msgspec.ValidationError:
                raise InvalidMessage(cls.__spec__.name, find_faults(cls, values)) from None
            if examined.finite:
                refuse_not_finite(cls.__spec__.name, message, examined.finite)
            return message

    class Message(msgspec.Struct, metaclass=MessageMeta):
        """A typed, frozen value that travels; validated when it is built and when it is decoded."""

        __is_command__: ClassVar[bool] = False


def examined_of(message: type[Message]) -> Examined:
    """Return what the types of a message's fields say; raises `DefinitionError` for one that cannot be resolved, or not be carried."""
    known: Examined | None = message.__examined__
    if known is None:
        known = examine(message, is_last=True)
        assert known is not None, "what cannot be resolved was raised"
        type.__setattr__(message, "__examined__", known)
    return known


@functools.cache
def writer_of(message: type[Message]) -> Callable[[Any], bytes]:
    """Return the function that writes messages of a class; see `values.writer`."""
    return writer(message.__spec__.name, examined_of(message), decoder(message))


def as_sent(message: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values by the names that they have in JSON; raises `InvalidMessage` for one that is called so in Python."""
    strange = [name for name in values if name not in message.__struct_fields__]
    if strange and message.__struct_config__.forbid_unknown_fields:
        raise InvalidMessage(message.__spec__.name, find_faults(message, values))
    return {message.__renamed__.get(name, name): value for name, value in values.items() if name not in strange}


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
