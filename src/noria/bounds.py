"""How far away a moment may be: nothing that Noria is asked to wait for may lie beyond it."""

from __future__ import annotations

from typing import Final

FURTHEST: Final = 100 * 366 * 86400.0  # seconds: what is further away than a century is a mistake
