"""Chooses what of a harness the gate runs; the rest is for the proof."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def only(chosen: str, names: Iterable[str]) -> list[Any]:
    """Return all names as parameters: the chosen one for the gate, the others for the proof."""
    listed = list(names)
    assert chosen in listed, f"{chosen} is none of {listed}"
    return [pytest.param(name, marks=[] if name == chosen else pytest.mark.proof) for name in listed]
