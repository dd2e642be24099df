"""What a terminal may be shown: no secret, and no text of others that commands it, reorders it, or hides in it."""

from __future__ import annotations

from typing import Any

import msgspec

from chappe import output
from chappe.failures import printable
from chappe.redaction import without_secrets


def write(text: str) -> None:
    """Write a text to stderr, soon, without waiting."""
    output.stderr.write(f"{printable(without_secrets(text))}\n".encode("utf-8", "backslashreplace"))


def say(text: str) -> None:
    """Tell people something on stderr; waits a moment at most if nobody reads there."""
    write(text)
    output.stderr.flush()


def escaped_json(value: Any, *, indent: int = 2) -> str:
    r"""Return JSON with everything in it written as `\u001b` that is no visible character; it means the same."""
    raw = msgspec.json.encode(value)
    text = (msgspec.json.format(raw, indent=indent) if indent else raw).decode()
    return text if text.isascii() and "\x7f" not in text else "".join(c if printable(c) == c else _as_json(c) for c in text)


def _as_json(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))
