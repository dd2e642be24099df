"""The names around a declaration inside a function, as long as that function runs: nobody can look them up later."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any


def names_around(qualname: str, module: Mapping[str, Any]) -> dict[str, Any]:
    """Return the local names of the running functions and class bodies in which something of this qualified name is declared."""
    names: dict[str, Any] = {}
    frame = sys._getframe(1)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - the way to see where a declaration stands
    while frame is not None:
        if frame.f_globals is module and qualname.startswith(f"{frame.f_code.co_qualname}."):
            names = {**frame.f_locals, **names}
        frame = frame.f_back
    return names
