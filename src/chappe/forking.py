"""What objects do in a child that their process forks, where they are copies of what goes on elsewhere."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from typing import Any, Final

_methods: Final[dict[weakref.WeakMethod[Callable[[], Any]], None]] = {}


def in_child(method: Callable[[], Any]) -> None:
    """Have a bound method be called in each child that is forked while its object lives, in the order in which this was asked for."""
    _methods[weakref.WeakMethod(method, lambda gone: _methods.pop(gone, None))] = None


def _call_all() -> None:
    for reference in list(_methods):
        method = reference()
        if method is not None:
            method()


os.register_at_fork(after_in_child=_call_all)
