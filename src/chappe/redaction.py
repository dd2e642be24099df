"""Passwords and tokens of settings: no text shows them, however malformed the URL is that holds them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final
from urllib.parse import unquote

HIDDEN: Final = "***"
_NOT_SHOWN: Final = "(not shown, for it may hold a password)"
_PLAIN: Final = re.compile(r"(?!amqp|postgres)(?:[a-z][a-z0-9+.-]*:/*)?[\w./~* -]*(?::\d{1,5})?/?", re.IGNORECASE)
_SCHEME: Final = re.compile(
    r"\s*(?:(?:amqps?|postgres(?:ql)?|sqlite|rediss?|https?):?/*|[a-z0-9+.-]*:?//+|[a-z][a-z0-9+.-]+:/)", re.IGNORECASE
)
_PORT: Final = re.compile(r"\d{1,5}(?:[/,?].*)?", re.DOTALL)
_GIVEN: Final = re.compile(r"[a-z][\w+.-]*:(?!=).*@|(?:amqps?|postgres(?:ql)?)\b.*[:@]", re.IGNORECASE | re.DOTALL)
_RUN: Final = 5  # so many characters in a row of a long secret are hidden wherever they are
_LONG: Final = 8
_UTF8: Final = "=[0-7]H|=[cd]H=[89ab]H|=eH(?:=[89ab]H){2}|=f[0-7](?:=[89ab]H){3}|"  # one character
_OTHERS: Final = r"""\\xHH|\\(?-i:u)d[89ab]HH\\ud[c-f]HH|\\(?-i:u)HHHH|\\(?-i:U)HHHHHHHH|\\["'\\/nrt]"""
_ESCAPED: Final = re.compile((_UTF8.replace("=", "%") + _UTF8.replace("=", r"\\x") + _OTHERS).replace("H", "[0-9a-f]"), re.IGNORECASE)
_NO_MARKS: Final = str.maketrans("", "", "%\\xXuU")
_SHORT: Final = {"n": "\n", "r": "\r", "t": "\t"}
_DEPTH: Final = 3  # of escapes inside escapes

_known: set[str] = set()
_tokens: set[str] = set()


def shown(value: str) -> str:
    """Return a value in quotes for an error about it, or words in its place if it can hold a secret."""
    return f'"{value}"' if _PLAIN.fullmatch(value) else _NOT_SHOWN


def secrets_in(url: str) -> set[str]:
    """Return what may be secret in a URL: all between the user and the host, and the values of options; also percent-decoded."""
    rest = _SCHEME.sub("", url, count=1)
    address, _, options = rest.partition("?")
    entrance, at, _ = rest.rpartition("@")
    user, colon, password = (entrance if at else address).partition(":")
    found = {option.partition("=")[2] for option in re.split(r"[&;\s]", options)}
    found |= set(re.findall(r"(?:password|passwd|pwd|secret|token)\s*=\s*'?([^\s'&;]+)", url, re.IGNORECASE))
    if colon and (at or not _PORT.fullmatch(password)):
        found.add(password)
    elif at and re.search(r"[^\w.-]", entrance):
        found.add(entrance)
    return {part for text in found for part in (text.strip(), unquote(text).strip()) if part and not (colon and part == user)}


def remember(settings: Mapping[str, Any]) -> None:
    """Have `without_secrets` hide what is secret in settings from now on, also if they are refused."""
    for name, value in settings.items():
        if isinstance(value, str) and name in {"broker", "store"}:
            _known.update(secrets_in(value))
        elif isinstance(value, str) and name in {"token", "token_secret", "alert_webhook"} and value:
            _tokens.add(value)


def remember_arguments(arguments: Iterable[str]) -> bool:
    """Do the same for what was typed, wherever on a command line it stands; tell whether there was anything."""
    values = [a.partition("=")[2] if a.startswith("-") and "=" in a else a for a in arguments]
    given = [value for value in values if _GIVEN.match(value)]
    for value in given:
        _known.update(secrets_in(value))
    return bool(given)


def without_secrets(text: str, secrets: Iterable[str] | None = None) -> str:
    """Return a text without the secrets that are known in this process, or those that are given, and without pieces of them.

    They are found in percent-encoding and in the escapes of JSON and Python too, also where one is inside another.
    """
    known = _known if secrets is None else set(secrets)
    hidden, seen, places = bytearray(len(text)), text, range(len(text) + 1)
    for _ in range(_DEPTH):
        for start, end in _found(seen, known):
            hidden[places[start] : places[end]] = b"\1" * (places[end] - places[start])
        if _ESCAPED.search(seen) is None:
            break
        seen, places = _decoded(seen, places)
    if not any(hidden):
        return text
    kept = "".join("\0" if hide else character for character, hide in zip(text, hidden, strict=True))
    return re.sub("\0+", HIDDEN, kept)


def _found(text: str, known: Iterable[str]) -> Iterator[tuple[int, int]]:
    """Yield where secrets begin and end: long ones by their pieces, tokens and short ones as whole words."""
    words = {secret for secret in known if len(secret) < _LONG}
    for run in {secret[at : at + _RUN] for secret in known if len(secret) >= _LONG for at in range(len(secret) - _RUN + 1)}:
        at = text.find(run)
        while at >= 0:
            yield at, at + _RUN
            at = text.find(run, at + 1)
    for word in words | _tokens:
        if word in text:
            yield from (match.span() for match in re.finditer(rf"(?<!\w){re.escape(word)}(?!\w)", text))


def _decoded(text: str, places: Sequence[int]) -> tuple[str, list[int]]:
    """Return a text with its escapes as what they stand for, and the place at which each character of it begins."""
    parts, begins, end = list[str](), list[int](), 0
    for match in _ESCAPED.finditer(text):
        parts += (text[end : match.start()], _meant(match[0]))
        begins += (*places[end : match.start()], places[match.start()])
        end = match.end()
    return "".join((*parts, text[end:])), [*begins, *places[end:]]


def _meant(escape: str) -> str:
    """Return the character that an escape stands for."""
    code = escape.translate(_NO_MARKS)
    if escape[0] == "%" or escape[1] in "xX":
        octets = bytes.fromhex(code)
        return octets.decode("utf-8" if len(octets) > 1 else "latin-1", "replace")[:1]
    if escape[1] in "uU":
        return bytes.fromhex(code).decode("utf-16-be" if escape[1] == "u" else "utf-32-be", "replace")[:1]
    return _SHORT.get(escape[1], escape[1])
