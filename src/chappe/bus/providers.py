"""What handlers get by annotation: one instance for each process, closed at exit in reverse order."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import typing
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator
from contextlib import AsyncExitStack
from typing import Any, cast

from chappe.bus.signature import NOTHING, Declaration, members, needs_of, plain
from chappe.errors import DefinitionError, DuplicateName


class Providers:
    """Functions that make things, known by what they return."""

    def __init__(self) -> None:
        self._makers: dict[Any, _Maker] = {}
        self._made: dict[Any, Any] = {}
        self._stack = AsyncExitStack()
        self._lock: asyncio.Lock | None = None

    def add(self, maker: Callable[..., Any]) -> None:
        """Register a function by its return annotation; a generator yields once and is closed at exit."""
        declared = Declaration(maker)
        made = _Maker(declared)
        if made.kind in self._makers:
            first = self._makers[made.kind].declared.origin
            raise DuplicateName(f"{_name(made.kind)} is provided by {first} already; {declared.origin} would be the second")
        self._makers[made.kind] = made

    def put(self, kind: Any, instance: Any) -> None:
        """Use this instance, for tests."""
        self._made[kind] = instance

    def knows(self, kind: Any) -> bool:
        """Tell whether something of this type can be given."""
        return any(one in self._makers or one in self._made for one in _candidates(kind))

    async def get(self, kind: Any) -> Any:
        """Return the one instance, making it (and what it needs) the first time."""
        kind = self._known(kind)
        if kind in self._made:
            return self._made[kind]
        if self._lock is None:
            self._lock = asyncio.Lock()
        async with self._lock:
            return await self._make(kind, ())

    def _known(self, kind: Any) -> Any:
        """Return the type by which something is provided: as it is written, or without what `Annotated` and `| None` add to it."""
        return next((one for one in _candidates(kind) if one in self._makers or one in self._made), kind)

    async def _make(self, kind: Any, path: tuple[Any, ...]) -> Any:
        kind = self._known(kind)
        if kind in self._made:
            return self._made[kind]
        if kind in path:
            raise DefinitionError(f"providers need each other in a circle: {' -> '.join(_name(k) for k in (*path, kind))}")
        maker = self._makers.get(kind)
        if maker is None:
            raise DefinitionError(f"nothing provides {_name(kind)}; write a function that returns it and decorate it with @app.provides")
        wanted = {name: need for name, need in maker.needs.items() if name not in maker.defaults or self.knows(need)}
        made: Any = maker.declared.function(**{name: await self._make(need, (*path, kind)) for name, need in wanted.items()})
        if maker.yields and isinstance(made, contextlib.AbstractAsyncContextManager):
            made = await self._stack.enter_async_context(cast("contextlib.AbstractAsyncContextManager[Any]", made))
        elif maker.yields and isinstance(made, contextlib.AbstractContextManager):
            made = self._stack.enter_context(cast("contextlib.AbstractContextManager[Any]", made))
        elif inspect.isasyncgen(made):
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


class _Maker:
    """A function that makes something: what, and from what."""

    def __init__(self, declared: Declaration) -> None:
        self.declared = declared
        kind = declared.returns()
        self.yields = typing.get_origin(kind) in _ITERATORS
        self.kind = typing.get_args(kind)[0] if self.yields else kind
        if kind is NOTHING or kind is type(None):
            raise DefinitionError(f"{declared.origin} needs a return annotation: it is provided by that type")
        self.needs, self.defaults = needs_of(declared, list(declared.parameters))


def _candidates(kind: Any) -> tuple[Any, ...]:
    """Return the types by which something may be provided, the one that says most first."""
    without_none = [one for one in members(kind) if one is not type(None)]
    found = (kind, plain(kind), *(without_none if len(without_none) == 1 else ()))
    return tuple(one for one in found if _can_be_a_key(one))


def _can_be_a_key(kind: Any) -> bool:
    """Tell whether nothing of what `Annotated` says of a type, a dict perhaps, is in the way of looking it up."""
    try:
        hash(kind)
    except TypeError:
        return False
    return True


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
