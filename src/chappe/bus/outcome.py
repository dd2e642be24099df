"""What became of a call: what it returned is awaited or iterated until there is a result, so that nothing is done without having run."""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
from collections.abc import AsyncIterable, Awaitable, Collection, Coroutine, Iterator
from typing import Any, Final, cast

from chappe.bus.context import Context
from chappe.messages.message import Message

_CONTAINERS: Final = frozenset({list, tuple, dict, set, frozenset})
_RESULTS: Final = frozenset({type(None), bool, int, float, str, bytes}) | _CONTAINERS


async def outcome_of(returned: Any, context: Context) -> Any:
    """Return the result of what a handler returned, and keep what it yields to be sent; raises `TypeError` for what would never run."""
    while type(returned) not in _RESULTS:
        if inspect.isawaitable(returned):
            returned = await returned
        elif isinstance(returned, concurrent.futures.Future):
            returned = await asyncio.wrap_future(cast("concurrent.futures.Future[Any]", returned))
        elif isinstance(returned, AsyncIterable):
            async for yielded in cast("AsyncIterable[Any]", returned):
                keep(yielded, context)
            return None
        elif isinstance(returned, Iterator):
            returned = iterated(cast("Iterator[Any]", returned), context)
        elif callable(returned) and not isinstance(returned, type):
            raise TypeError(
                f"the handler returned a {type(returned).__qualname__} that can be called, and nobody would call it; "
                "is a decorator missing its parentheses?"
            )
        else:
            return returned
    if type(returned) in _CONTAINERS and returned:
        _refuse_unawaited(returned)
    return returned


def _refuse_unawaited(returned: Any) -> None:
    """Raise `TypeError` for what is to be awaited and stands where nobody would await it: inside a result."""
    name = type(returned).__name__
    inside = cast("Collection[Any]", cast("dict[Any, Any]", returned).values() if isinstance(returned, dict) else returned)
    for kind in set(map(type, inside)):
        if issubclass(kind, Awaitable | AsyncIterable):
            for one in inside:
                if isinstance(one, Coroutine):
                    cast("Coroutine[Any, Any, Any]", one).close()
            raise TypeError(
                f"the handler returned a {name} with a {kind.__name__} in it, and nobody would await that; "
                "write: return await asyncio.gather(*them)"
            )


def iterated(yielding: Iterator[Any], context: Context) -> Any:
    """Keep what an iterator yields to be sent, and return what it returns at its end."""
    while True:
        try:
            yielded = next(yielding)
        except StopIteration as ended:
            return ended.value
        keep(yielded, context)


def keep(yielded: Any, context: Context) -> None:
    """Keep one message that a handler yielded; raises `TypeError` for anything else."""
    if not isinstance(yielded, Message):
        raise TypeError(f"a handler may yield commands and events only, not {type(yielded).__name__}; return a result instead")
    context.send(yielded)
