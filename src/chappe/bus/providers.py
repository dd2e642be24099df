"""What handlers get by annotation: one instance for each process and event loop, closed at the end of it in reverse order."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import sys
import typing
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any, cast

from chappe.bus.loops import PerLoop
from chappe.bus.signature import NOTHING, Declaration, members, needs_of, plain
from chappe.errors import DefinitionError, DuplicateName


class Providers:
    """Functions that make things, known by what they return."""

    def __init__(self) -> None:
        self._makers: dict[Any, _Maker] = {}
        self._given: dict[Any, Any] = {}
        self._made = PerLoop(_Made)

    def add(self, maker: Callable[..., Any]) -> None:
        """Register a function by its return annotation; a generator yields once and is closed at exit."""
        declared = Declaration(maker)
        made = _Maker(declared)
        if made.kind in self._makers:
            first = self._makers[made.kind].declared.origin
            raise DuplicateName(f"{_name(made.kind)} is provided by {first} already; {declared.origin} would be the second")
        self._makers[made.kind] = made

    def put(self, kind: Any, instance: Any) -> None:
        """Use this instance in all event loops until `put_nothing`, for tests."""
        self._given[kind] = instance

    def put_nothing(self) -> None:
        """Make instances again, after `put`."""
        self._given.clear()

    def knows(self, kind: Any) -> bool:
        """Tell whether something of this type can be given."""
        return any(one in self._makers or one in self._given for one in _candidates(kind))

    async def get(self, kind: Any) -> Any:
        """Return the one instance of the running event loop, making it (and what it needs) the first time."""
        made = self._made.here()
        async with made.lock:
            return await self._make(kind, (), made)

    def _known(self, kind: Any) -> Any:
        """Return the type by which something is provided: as it is written, or without what `Annotated` and `| None` add to it."""
        return next((one for one in _candidates(kind) if one in self._makers or one in self._given), kind)

    async def _make(self, kind: Any, path: tuple[Any, ...], here: _Made) -> Any:
        kind = self._known(kind)
        for instances in (self._given, here.instances):
            if kind in instances:
                return instances[kind]
        if kind in path:
            raise DefinitionError(f"providers need each other in a circle: {' -> '.join(_name(k) for k in (*path, kind))}")
        maker = self._makers.get(kind)
        if maker is None:
            raise DefinitionError(f"nothing provides {_name(kind)}; write a function that returns it and decorate it with @app.provides")
        wanted = {name: need for name, need in maker.needs.items() if name not in maker.defaults or self.knows(need)}
        made: Any = maker.declared.function(**{name: await self._make(need, (*path, kind), here) for name, need in wanted.items()})
        await here.begin()
        if maker.yields and isinstance(made, contextlib.AbstractAsyncContextManager):
            made = await here.stack.enter_async_context(cast("contextlib.AbstractAsyncContextManager[Any]", made))
        elif maker.yields and isinstance(made, contextlib.AbstractContextManager):
            made = here.stack.enter_context(cast("contextlib.AbstractContextManager[Any]", made))
        elif inspect.isasyncgen(made):
            generator = made
            made = await _first(generator)
            here.stack.push_async_callback(anext, generator, None)
        elif inspect.isgenerator(made):
            generator = made
            made = next(generator)
            here.stack.callback(next, generator, None)
        elif inspect.isawaitable(made):
            made = await made
        here.instances[kind] = made
        return made

    async def close(self) -> None:
        """Close everything that was made for the running event loop."""
        made = self._made.pop()
        if made is not None:
            await made.end.aclose()


class _Made:
    """What was made for one event loop, and its end: `close`, or else the moment when the loop shuts down."""

    def __init__(self) -> None:
        self.instances: dict[Any, Any] = {}
        self.stack = AsyncExitStack()
        self.lock = asyncio.Lock()
        self.end = self._until_the_end()
        self._begun = False

    async def begin(self) -> None:
        """Have the running loop close everything when it shuts down, as `asyncio.run` does at its end."""
        if not self._begun:
            self._begun = True
            await anext(self.end)

    async def _until_the_end(self) -> AsyncGenerator[None]:
        try:
            yield  # a loop that shuts down closes the asynchronous generators that were begun in it
        finally:
            self.instances.clear()
            await self.stack.aclose()


def _first(generator: AsyncGenerator[Any, Any]) -> Awaitable[Any]:
    """Begin a generator that its loop shall not close by itself: the code behind its `yield` runs in the order of `_Made.stack`."""
    hooks = sys.get_asyncgen_hooks()
    sys.set_asyncgen_hooks(firstiter=None, finalizer=None)
    try:
        return anext(generator)
    finally:
        sys.set_asyncgen_hooks(*hooks)


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


def _name(thing: Any) -> str:
    return getattr(thing, "__qualname__", None) or repr(thing)
