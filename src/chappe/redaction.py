"""Passwords and tokens of settings: no text shows them, however malformed the URL is that holds them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
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
    return {part for text in found for part in (text, unquote(text)) if part.strip() and not (colon and part == user)}


def remember(settings: Mapping[str, Any]) -> None:
    """Have `without_secrets` hide what is secret in settings from now on, also if they are refused."""
    for name, value in settings.items():
        if isinstance(value, str) and name in {"broker", "store"}:
            _known.update(secrets_in(value))
        elif isinstance(value, str) and name == "token" and value:
            _tokens.add(value)


def remember_arguments(arguments: Iterable[str]) -> bool:
    """Do the same for what was typed, wherever on a command line it stands; tell whether there was anything."""
    values = [a.partition("=")[2] if a.startswith("-") and "=" in a else a for a in arguments]
    given = [value for value in values if _GIVEN.match(value)]
    for value in given:
        _known.update(secrets_in(value))
    return bool(given)


def without_secrets(text: str, secrets: Iterable[str] | None = None) -> str:
    """Return a text without the secrets that are known in this process, or those that are given, and without pieces of them."""
    for token in _tokens:
        text = _without_word(text, token)
    known = _known if secrets is None else set(secrets)
    for secret in sorted(known, key=len, reverse=True):
        if len(secret) >= _LONG:
            text = _without_runs(text.replace(secret, HIDDEN), {secret[at : at + _RUN] for at in range(len(secret) - _RUN + 1)})
        else:
            text = _without_word(text, secret)
    return text


def _without_word(text: str, word: str) -> str:
    return re.sub(rf"(?<!\w){re.escape(word)}(?!\w)", HIDDEN, text) if word in text else text


def _without_runs(text: str, runs: set[str]) -> str:
    if not any(run in text for run in runs):
        return text
    hidden = [False] * len(text)
    for at in range(len(text) - _RUN + 1):
        if text[at : at + _RUN] in runs:
            hidden[at : at + _RUN] = [True] * _RUN
    kept = "".join("\0" if hide else character for character, hide in zip(text, hidden, strict=True))
    return re.sub("\0+", HIDDEN, kept)
