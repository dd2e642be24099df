"""What is written of a message is what will be read of it, or it is refused with the place of the value that would change."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, cast

import msgspec

from chappe.errors import InvalidMessage
from chappe.failures import summarize
from chappe.messages.codec import encode_json
from chappe.messages.fields import Examined

_NO_FLOATS: Final = frozenset({type(None), bool, int, str, bytes})
_NO_NUMBER: Final = "NaN and infinity are no numbers in JSON; send None, or a text"
_LARGEST_RESULT: Final = 32 * 1024 * 1024  # half of what can be said to an engine at once
_ENDLESS: Final = "it is nested too deeply, or contains itself"


def writer(name: str, examined: Examined, read: Callable[[bytes], Any]) -> Callable[[Any], bytes]:
    """Return the function that writes messages of a class as JSON; it raises `InvalidMessage` with the place of what would not arrive.

    `read` is how they will be read. Where the types say that nothing can change, nothing is read again.
    """

    is_exact, finite = examined.is_exact, bool(examined.finite)
    hidden = examined.has_times  # changes that `==` does not see

    def write(message: Any) -> bytes:
        try:
            body = encode_json(message)
        except (TypeError, ValueError, OverflowError) as error:  # a lone surrogate, an object of no known kind
            raise InvalidMessage(name, {_unwritable(message, "$"): f"it cannot be written as JSON: {error}"}) from None
        except RecursionError:
            raise InvalidMessage(name, {"$": _ENDLESS}) from None
        if not is_exact or (finite and b"null" in body):
            try:
                back = read(body)
                changed = None if back == message and not hidden else _not_finite(message, "$") or _change(message, back, "$")
            except (msgspec.DecodeError, ValueError, TypeError, RecursionError) as error:
                changed = _not_finite(message, "$") or _placed(error)
            if changed is not None:
                raise InvalidMessage(name, dict([changed]))
        return body

    return write


def refuse_not_finite(name: str, message: Any, fields: Sequence[str]) -> None:
    """Raise `InvalidMessage` with the place of a float in some fields of a message that JSON cannot carry."""
    for field in fields:
        value = getattr(message, field)
        kind = cast("type[Any]", type(value))
        if kind in _NO_FLOATS or (kind is float and math.isfinite(value)):
            continue
        if kind is not float and _is_written_without_null(value):
            continue
        try:
            found = _not_finite(value, f"$.{field}")
        except RecursionError:
            found = (f"$.{field}", _ENDLESS)
        if found is not None:
            raise InvalidMessage(name, dict([found]))


def encode_result(value: Any) -> bytes:
    """Return the JSON of what a handler returned; raises `TypeError` or `ValueError` for what JSON cannot carry, with its place."""
    try:
        body = encode_json(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise TypeError(f"{_unwritable(value, '$')}: {error}") from None
    except RecursionError:
        raise ValueError(_ENDLESS) from None
    found = _not_finite(value, "$") if b"null" in body else None
    if found is not None:
        raise ValueError(": ".join(found))
    return body


class NoResult:
    """Stands for a result that cannot be kept, and says why."""

    def __init__(self, why: str) -> None:
        self.why = why


def result_as(returns: Any, name: str, result: Any) -> Any:
    """Return the result of a message as what was asked for; raises `InvalidMessage` if it is something else."""
    if returns is Any:
        return result
    try:
        return msgspec.json.decode(encode_result(result), type=returns)
    except (msgspec.ValidationError, TypeError) as error:
        raise InvalidMessage(f"the result of {name}", {"$": str(error)}) from None


def result_of(value: Any) -> tuple[bytes | None, str | None]:
    """Return the JSON of what a handler returned, or why there is none: what is done stays done."""
    if value is None:
        return None, None
    if isinstance(value, NoResult):
        return None, value.why
    try:
        body = encode_result(value)
    except BaseException as error:  # whatever the value does while it is looked at
        return None, f"done, but its result cannot be written as JSON: {summarize(error)}"
    if len(body) > _LARGEST_RESULT:
        return None, f"done, but its result has {len(body)} bytes of JSON, and at most {_LARGEST_RESULT} are kept"
    return body, None


def _is_written_without_null(value: Any) -> bool:
    """Tell, without a look at each of them, that there is no float inside that is written as null."""
    try:
        return b"null" not in encode_json(value)
    except (TypeError, ValueError, OverflowError, RecursionError):
        return False


def _placed(error: Exception) -> tuple[str, str]:
    fault, _, place = str(error).partition(" - at `")
    return place.rstrip("`") or "$", f"it could not be read again: {fault}"


def _children(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield what is directly inside a value, each with its place."""
    if isinstance(value, msgspec.Struct):
        for name in value.__struct_fields__:
            yield f"{path}.{name}", getattr(value, name)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield f"{path}.{field.name}", getattr(value, field.name, None)
    elif isinstance(value, Mapping):
        for key, inner in cast("Mapping[Any, Any]", value).items():
            yield f"{path}.{key}" if isinstance(key, str) else f"{path}[{key!r}]", inner
    elif isinstance(value, list | tuple | set | frozenset):
        for number, inner in enumerate(cast("Sequence[Any]", value)):
            yield f"{path}[{number}]", inner


def _not_finite(value: Any, path: str) -> tuple[str, str] | None:
    """Return the place of the first NaN or infinity, with what to do."""
    if isinstance(value, float):
        return None if math.isfinite(value) else (path, _NO_NUMBER)
    if isinstance(value, Mapping) and any(isinstance(key, float) and not math.isfinite(key) for key in cast("Mapping[Any, Any]", value)):
        return path, _NO_NUMBER
    return next((found for place, inner in _children(value, path) if (found := _not_finite(inner, place)) is not None), None)


def _unwritable(value: Any, path: str) -> str:
    """Return the place of the innermost value that cannot be written."""
    for place, inner in _children(value, path):
        try:
            _ = encode_json(inner)
        except (TypeError, ValueError, OverflowError, RecursionError):
            return _unwritable(inner, place)
    return path


def _change(sent: Any, back: Any, path: str) -> tuple[str, str] | None:
    """Return the place of the first value that is read as another one, with both."""
    if isinstance(sent, msgspec.Struct | dict | list | tuple | set | frozenset) or dataclasses.is_dataclass(sent):
        if not isinstance(sent, type(back)) or (isinstance(sent, tuple | msgspec.Struct) and type(cast("Any", sent)) is not type(back)):
            return path, f"{_shown(sent)} would arrive as {_shown(back)}; declare the field with the type of its values"
        if isinstance(sent, set | frozenset):
            return None if sent == back else (path, f"{_shown(sent)} would arrive as {_shown(back)}")
        return _change_inside(list(_children(sent, path)), list(_children(back, path)), path, sent, back)
    return None if _is_same(sent, back) else (path, f"{_shown(sent)} would arrive as {_shown(back)}")


def _change_inside(
    sent: Sequence[tuple[str, Any]], back: Sequence[tuple[str, Any]], path: str, whole: Any, whole_back: Any
) -> tuple[str, str] | None:
    if [place for place, _ in sent] != [place for place, _ in back]:
        return path, f"{_shown(whole)} would arrive as {_shown(whole_back)}; declare the field with the type of its values"
    pairs = zip(sent, back, strict=True)
    return next((found for (place, one), (_, other) in pairs if (found := _change(one, other, place)) is not None), None)


def _is_same(sent: Any, back: Any) -> bool:
    if isinstance(sent, datetime.datetime) and isinstance(back, datetime.datetime):  # == says no in the hour that comes twice
        return sent.replace(tzinfo=None, fold=0) == back.replace(tzinfo=None) and sent.utcoffset() == back.utcoffset()
    if isinstance(sent, datetime.time) and isinstance(back, datetime.time):  # == says yes where a zone without a date is left out
        return sent == back and (sent.tzinfo is None) == (back.tzinfo is None)
    if isinstance(sent, decimal.Decimal) and isinstance(back, decimal.Decimal):
        return sent.compare_total(back) == 0
    if isinstance(sent, msgspec.Raw) and isinstance(back, msgspec.Raw):
        return bytes(sent) == bytes(back)
    return bool(sent == back)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
