"""How a count is said."""

from __future__ import annotations


def counted(count: int, one: str, many: str = "") -> str:
    """Return a count with its noun, like "1 message" or "2 messages"."""
    return f"{count} {one if count == 1 else many or f'{one}s'}"
