"""What handlers get by annotation: one instance for each process, closed at exit in reverse order."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import typing
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator
from contextlib import AsyncExitStack
from typing import Any

from chappe.errors import DefinitionError, DuplicateName


class Providers:
    """Functions that make things, known by what they return."""

    def __init__(self) -> None:
        self._makers: dict[Any, Callable[..., Any]] = {}
        self._made: dict[Any, Any] = {}
        self._stack = AsyncExitStack()
        self._lock: asyncio.Lock | None = None

    def add(self, maker: Callable[..., Any]) -> None:
        """Register a function by its return annotation; a generator yields once and is closed at exit."""
        kind = provided_type(maker)
        if kind in self._makers:
            raise DuplicateName(f"{_name(kind)} is provided by {_name(self._makers[kind])} already; {_name(maker)} would be the second")
        self._makers[kind] = maker

    def put(self, kind: Any, instance: Any) -> None:
        """Use this instance, for tests."""
        self._made[kind] = instance

    def knows(self, kind: Any) -> bool:
        """Tell whether something of this type can be given."""
        return kind in self._makers or kind in self._made

    async def get(self, kind: Any) -> Any:
        """Return the one instance, making it (and what it needs) the first time."""
        if kind in self._made:
            return self._made[kind]
        if self._lock is None:
            self._lock = asyncio.Lock()
        async with self._lock:
            return await self._make(kind, ())

    async def _make(self, kind: Any, path: tuple[Any, ...]) -> Any:
        if kind in self._made:
            return self._made[kind]
        if kind in path:
            raise DefinitionError(f"providers need each other in a circle: {' -> '.join(_name(k) for k in (*path, kind))}")
        maker = self._makers.get(kind)
        if maker is None:
            raise DefinitionError(f"nothing provides {_name(kind)}; write a function that returns it and decorate it with @app.provides")
        needs = needed_types(maker)
        made = maker(**{name: await self._make(need, (*path, kind)) for name, need in needs.items()})
        if inspect.isasyncgen(made):
            made = await self._stack.enter_async_context(_closing(made))
        elif inspect.isgenerator(made):
            made = self._stack.enter_context(_closing_sync(made))
        elif inspect.isawaitable(made):
            made = await made
        self._made[kind] = made
        return made

    async def close(self) -> None:
        """Close everything that was made."""
        await self._stack.aclose()
        self._made.clear()
        self._lock = None


def provided_type(maker: Callable[..., Any]) -> Any:
    """Return what a provider makes: its return annotation, or what its generator yields."""
    hints = typing.get_type_hints(maker)
    kind = hints.get("return")
    if typing.get_origin(kind) in _ITERATORS:
        kind = typing.get_args(kind)[0]
    if kind is None or kind is type(None):
        raise DefinitionError(f"{_name(maker)} needs a return annotation: it is provided by that type")
    return kind


def needed_types(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the annotated types of a function's parameters."""
    hints = typing.get_type_hints(function)
    return {name: hints[name] for name in inspect.signature(function).parameters if name in hints}


_ITERATORS = (
    typing.get_origin(AsyncIterator[Any]), typing.get_origin(Iterator[Any]),
    typing.get_origin(typing.AsyncGenerator[Any, None]), typing.get_origin(typing.Generator[Any, None, None]),
)  # fmt: skip


@contextlib.asynccontextmanager
async def _closing(generator: AsyncIterator[Any]) -> AsyncGenerator[Any]:
    made = await anext(generator)
    try:
        yield made
    finally:
        await anext(generator, None)


@contextlib.contextmanager
def _closing_sync(generator: Iterator[Any]) -> Generator[Any]:
    made = next(generator)
    try:
        yield made
    finally:
        next(generator, None)


def _name(thing: Any) -> str:
    return getattr(thing, "__qualname__", None) or repr(thing)
