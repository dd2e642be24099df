"""Decorators as other libraries write them: in a module that knows none of the names in the annotations of what they wrap."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any as Whatever


def wrapped(function: Callable[..., Whatever]) -> Callable[..., Whatever]:
    """Wrap a function by a plain one."""

    @functools.wraps(function)
    def call(*args: Whatever, **kwargs: Whatever) -> Whatever:
        return function(*args, **kwargs)

    return call


class Traced:
    """Wrap a function by an object, as profilers do."""

    def __init__(self, function: Callable[..., Whatever]) -> None:
        self.function = function
        functools.update_wrapper(self, function)

    def __call__(self, *args: Whatever, **kwargs: Whatever) -> Whatever:
        return self.function(*args, **kwargs)


def bare(function: Callable[..., Whatever]) -> Callable[..., Whatever]:
    """Wrap a function and say nothing about it."""

    def call(*args: Whatever, **kwargs: Whatever) -> Whatever:
        return function(*args, **kwargs)

    return call
