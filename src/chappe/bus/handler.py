"""One function that handles a message, whatever its colour: `async def` or `def`, returning or yielding."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import ctypes
import inspect
import os
import threading
import typing
from collections.abc import AsyncIterable, Awaitable, Callable, Collection, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import CoroutineType
from typing import Any, Final, cast

from chappe.bus.context import Context
from chappe.bus.digest import Digest, Gathering
from chappe.bus.loop import end_copy
from chappe.bus.providers import Providers
from chappe.bus.signature import NOTHING, Declaration, members, needs_of, plain
from chappe.bus.steps import current_slot
from chappe.errors import DefinitionError
from chappe.messages.message import Message

Invoke = Callable[[Any, Context], Awaitable[Any]]
_CONTAINERS: Final = frozenset({list, tuple, dict, set, frozenset})
_RESULTS: Final = frozenset({type(None), bool, int, float, str, bytes}) | _CONTAINERS


class Handler:
    """A function, what it handles, and what else it wants to be given."""

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        unpack: Callable[..., Any] | None = None,
        provided: Sequence[str] | None = None,
        digest: Digest | None = None,
    ) -> None:
        """Read the signature: the first parameter is the message, the others are provided by their annotation.

        With `unpack`, that is what is called with the message, and only the parameters in `provided` are. With a `digest` it is called
        with a list of messages, and the list of their contexts.
        """
        declared = Declaration(function)
        self.name = declared.name
        self.short_name = declared.short_name
        self.origin = declared.origin
        self.takes: tuple[type[Any], ...] = ()
        if unpack is None:
            message = _message_of(declared)
            _refuse_unbound_method(declared, message)
            self.takes = _taken(declared, message, listed=digest is not None)
        self.needs, self.defaults = needs_of(declared, list(declared.parameters)[1:] if provided is None else provided)
        self._call = unpack or function
        self._on_loop = _runs_on_the_loop(function)
        self.digest = digest
        if digest is not None:
            _refuse_as_digest(declared, self.needs)

    def unmet(self, providers: Providers) -> list[str]:
        """Return the parameters that nothing provides."""
        return [
            f"{name}: {getattr(hint, '__qualname__', hint)}"
            for name, hint in self.needs.items()
            if not self._wants_context(hint) and name not in self.defaults and not providers.knows(hint)
        ]

    async def bind(self, providers: Providers, threads: ThreadPoolExecutor) -> Invoke:
        """Return the coroutine function that runs the handler with everything it needs."""
        contexts = [name for name, hint in self.needs.items() if self._wants_context(hint)]
        given = {
            name: await providers.get(hint)
            for name, hint in self.needs.items()
            if name not in contexts and (name not in self.defaults or providers.knows(hint))
        }
        function = self._call

        def call(message: Message, context: Context) -> Any:
            return function(message, **given, **dict.fromkeys(contexts, context))

        def call_with_nothing(message: Message, _: Context) -> Any:
            return function(message)

        started = call if given or contexts else call_with_nothing
        invoke = _awaited(started) if self._on_loop else _threaded(started, threads)
        return invoke if self.digest is None else Gathering(invoke, self.digest).join

    def _wants_context(self, hint: Any) -> bool:
        return wants_context(hint) if self.digest is None else plain(hint) == list[Context]


def _runs_on_the_loop(function: Callable[..., Any]) -> bool:
    """Tell whether a call makes a coroutine or an asynchronous generator and does nothing else."""
    called: Any = getattr(type(function), "__call__")  # noqa: B004, B009 - of an object: whether that is asynchronous
    return any(test(one) for one in (function, called) for test in (inspect.iscoroutinefunction, inspect.isasyncgenfunction))


def wants_context(hint: Any) -> bool:
    """Tell whether a parameter of this type is given the `Context`."""
    return Context in members(hint)


def _message_of(declared: Declaration) -> inspect.Parameter:
    """Return the parameter that takes the message; raises `DefinitionError` if none does."""
    first = next(iter(declared.parameters.values()), None)
    if first is None or first.kind is inspect.Parameter.VAR_KEYWORD:
        name = declared.short_name
        raise DefinitionError(f"{declared.origin} takes no message; write it like: def {name}(message: {name.title()})")
    if first.kind is inspect.Parameter.KEYWORD_ONLY:
        raise DefinitionError(f'{declared.origin}: the message comes first and by its position; put "{first.name}" in front of the "*"')
    return first


def _taken(declared: Declaration, message: inspect.Parameter, *, listed: bool) -> tuple[type[Any], ...]:
    """Return the classes that the first parameter is annotated with, or is a list of, as far as that is known; none takes everything."""
    try:
        hint = plain(declared.hint(message.name))
        if listed and hint not in (NOTHING, Any):
            if typing.get_origin(hint) not in (list, Sequence):
                raise DefinitionError(f"{declared.origin} is given several commands at once; write {message.name}: list[…]")
            (hint,) = typing.get_args(hint)
        kinds = members(hint)
    except DefinitionError:  # it is known to type checkers only: nothing is provided by it
        if listed:
            raise
        return ()
    return tuple(kind for kind in kinds if isinstance(kind, type)) if all(_is_class(kind) for kind in kinds) else ()


def _refuse_as_digest(declared: Declaration, needs: Mapping[str, Any]) -> None:
    """Raise `DefinitionError` for a handler of several messages that treats them as one."""
    if inspect.isgeneratorfunction(declared.function) or inspect.isasyncgenfunction(declared.function):
        raise DefinitionError(f"{declared.origin}: what it yields would follow from none of its commands; take contexts: list[Context]")
    if any(wants_context(hint) for hint in needs.values()):
        raise DefinitionError(f"{declared.origin}: each of its commands has a context of its own; take contexts: list[Context]")


def _is_class(kind: Any) -> bool:
    return isinstance(kind, type) and kind not in (NOTHING, Any) and not getattr(kind, "_is_protocol", False)


def _refuse_unbound_method(declared: Declaration, first: inspect.Parameter) -> None:
    """Raise `DefinitionError` for a function in the body of a class that would be given its message as `self`."""
    if declared.is_in_class and first.name in ("self", "cls") and first.annotation is NOTHING:
        owner, _, name = declared.qualname.rpartition("<locals>.")[2].rpartition(".")
        raise DefinitionError(
            f"{declared.origin} is a method without an instance; register it below the class, of an instance: {owner}(…).{name}"
        )


def _awaited(call: Callable[[Any, Context], Any]) -> Invoke:
    async def invoke(message: Message, context: Context) -> Any:
        returned: Any = call(message, context)
        if type(returned) is CoroutineType:
            returned = await cast("Awaitable[Any]", returned)
        return None if returned is None else await outcome_of(returned, context)

    return invoke


def _threaded(call: Callable[[Message, Context], Any], threads: ThreadPoolExecutor) -> Invoke:
    def inner(message: Message, context: Context) -> Any:
        returned = call(message, context)
        return iterated(cast("Iterator[Any]", returned), context) if isinstance(returned, Iterator) else returned

    async def invoke(message: Message, context: Context) -> Any:
        run = _Run(current_slot.get().in_thread)
        variables = contextvars.copy_context()
        running = asyncio.get_running_loop().run_in_executor(threads, lambda: variables.run(run, inner, message, context))
        try:
            returned = await asyncio.shield(running)
        except asyncio.CancelledError:
            # A thread cannot be ended: its slot and its key stay taken until it has really ended, or the worker does.
            run.interrupt()
            await asyncio.wait((running,))
            raise
        return None if returned is None else await outcome_of(returned, context)

    return invoke


class _Run:
    """One call in a thread, which can be asked to stop where Python code runs."""

    def __init__(self, executes: Callable[[bool], None]) -> None:
        self._executes = executes
        self._thread: int | None = None
        self._lock = threading.Lock()
        self._process = os.getpid()

    def __call__(self, inner: Callable[[Any, Context], Any], message: Any, context: Context) -> Any:
        with self._lock:
            self._thread = threading.get_ident()
        self._executes(True)
        try:
            return inner(message, context)
        except Interrupted:
            return None
        except StopIteration as error:  # no future can hold one, and whoever waits would wait for ever
            raise RuntimeError("the handler raised StopIteration") from error
        finally:
            if os.getpid() != self._process:
                end_copy(f"the handler of {type(message).__name__}")
            self._executes(False)
            with self._lock:
                self._thread = None

    def interrupt(self) -> None:
        """Raise `Interrupted` in the thread; code that waits inside a C call sees it when that returns."""
        with self._lock:
            if self._thread is not None:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self._thread), ctypes.py_object(Interrupted))


class Interrupted(BaseException):
    """A synchronous handler ran out of time, or its worker stops."""


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
