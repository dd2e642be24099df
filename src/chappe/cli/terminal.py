"""What a terminal may be shown: text of others that cannot command it, reorder it, or pretend to be another line."""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from chappe import output

_PLAIN: Final = re.compile(r"[\x20-\x7e\n]*")


def say(text: str) -> None:
    """Tell people something on stderr; waits a moment at most if nobody reads there."""
    output.stderr.write(f"{escaped(text)}\n".encode("utf-8", "backslashreplace"))
    output.stderr.flush()


def escaped(text: str, keep: str = "\n\t") -> str:
    r"""Return a text with everything in it written as `\x1b` that is no visible character: controls, and what joins, hides or reorders."""
    if _PLAIN.fullmatch(text) and "\n" in keep:
        return text
    return "".join(c if c.isprintable() or c in keep else repr(c)[1:-1] for c in text)


def escaped_json(value: Any, *, indent: int = 2) -> str:
    r"""Return JSON with everything in it written as `\u001b` that is no visible character; it means the same."""
    raw = msgspec.json.encode(value)
    text = (msgspec.json.format(raw, indent=indent) if indent else raw).decode()
    return text if _PLAIN.fullmatch(text) else "".join(c if c.isprintable() or c == "\n" else _as_json(c) for c in text)


def _as_json(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))
