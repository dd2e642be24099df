"""What every system sends: 200 bytes of JSON. The peers import it too, so it needs nothing at all."""

from __future__ import annotations

from typing import Any, Final

FIELDS: Final[dict[str, Any]] = {
    "id": 1234567,
    "name": "report.refresh",
    "user": "alice@example.com",
    "tags": ["a", "b", "c"],
    "note": "x" * 81,
    "ok": True,
    "ratio": 0.25,
}


def stamped(at: float) -> dict[str, Any]:
    """Return as much with the time at which it was sent in it."""
    return {"at": at, "id": 1234567, "name": "report.refresh", "user": "alice@example.com", "note": "x" * 95}
