"""Messages to bytes and back: JSON by default, MessagePack by content type."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, Final, cast

import msgspec

from chappe.errors import InvalidMessage
from chappe.failures import summarize

JSON: Final = "application/json"
MSGPACK: Final = "application/msgpack"

encode_json: Final[Callable[[Any], bytes]] = msgspec.json.Encoder().encode


@functools.cache
def decoder(message: type[Any], content_type: str = JSON) -> Callable[[bytes], Any]:
    """Return the function that turns bytes into a checked message; it raises `msgspec.ValidationError`."""
    match content_type.partition(";")[0].strip().lower():
        case "application/json" | "":
            return msgspec.json.Decoder(message).decode
        case "application/msgpack":
            return msgspec.msgpack.Decoder(message).decode
        case _:
            raise msgspec.DecodeError(f'content type "{content_type}" is neither {JSON} nor {MSGPACK}')


def decode_plain(body: bytes, content_type: str = JSON) -> Any:
    """Decode without a type, for people who look at a message whose class is not at hand."""
    return msgspec.msgpack.decode(body) if content_type == MSGPACK else msgspec.json.decode(body)


def decode_body(message: type[Any], name: str, body: bytes) -> Any:
    """Decode JSON from outside; raises `InvalidMessage` with the path of every field at fault."""
    try:
        try:
            return msgspec.json.decode(body, type=message)
        except msgspec.ValidationError as error:  # msgspec stops here, also before a later place where the body is no JSON at all
            faults = find_faults(message, msgspec.json.decode(body), strings=True) or {"$": str(error)}
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise InvalidMessage(name, {"$": str(error)}) from None
    except BaseException as error:  # what a message's own __post_init__ raises beyond ValueError, an assertion perhaps
        raise InvalidMessage(name, {"$": summarize(error)}) from error
    raise InvalidMessage(name, faults)


def find_faults(message: type[Any], values: Any, *, strings: bool = False) -> dict[str, str]:
    """Return the path of each field at fault with what is wrong there.

    msgspec stops at the first fault; somebody who fills in a form wants all of them, so each field is
    converted alone. `strings` is for values that came from JSON, where a date is a string and a field may have another name.
    """
    if not isinstance(values, Mapping):  # what msgspec says of it is all there is to say
        return {}
    builtin = () if strings else (bytes, bytearray)
    given = cast("Mapping[str, Any]", values)
    faults: dict[str, str] = {}
    fields = {(field.encode_name if strings else field.name): field for field in msgspec.structs.fields(message)}
    for name, field in fields.items():
        if name not in given:
            if field.required:
                faults[f"$.{name}"] = "Field required"
            continue
        try:
            msgspec.convert(given[name], field.type, builtin_types=builtin)
        except msgspec.ValidationError as error:
            fault, _, inner = str(error).partition(" - at `$")
            faults[f"$.{name}{inner.rstrip('`')}"] = fault
    if message.__struct_config__.forbid_unknown_fields:
        known = {*fields, *([message.__struct_config__.tag_field] if strings else [])}
        faults |= {f"$.{name}": "Unknown field" for name in given if name not in known}
    if not faults:  # a rule of the whole message, from its __post_init__
        try:
            sent = {(fields[name].encode_name if name in fields else name): value for name, value in given.items()}
            msgspec.convert(sent, message, builtin_types=builtin)
        except msgspec.ValidationError as error:
            fault, _, inner = str(error).partition(" - at `$")
            faults[f"${inner.rstrip('`')}"] = fault
    return faults
