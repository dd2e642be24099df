"""One function that handles a message, whatever its colour: `async def` or `def`, returning or yielding."""

from __future__ import annotations

import asyncio
import contextvars
import ctypes
import inspect
import threading
import types
import typing
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from chappe.bus.context import Context
from chappe.bus.providers import Providers
from chappe.errors import DefinitionError
from chappe.messages.message import Message

Invoke = Callable[[Any, Context], Awaitable[Any]]


class Handler:
    """A function, what it handles, and what else it wants to be given."""

    def __init__(self, function: Callable[..., Any], *, name: str | None = None) -> None:
        """Read the signature: the first parameter is the message, the others are provided by their annotation."""
        self.function = function
        self.name = name or f"{function.__module__}.{function.__qualname__}"
        parameters = list(inspect.signature(function).parameters.values())
        if not parameters:
            raise DefinitionError(
                f"{self.name} takes no message; write it like: def {function.__name__}(message: {function.__name__.title()})"
            )
        self.takes = _taken(function, parameters[0].name)
        hints = _hints(function, [parameter.name for parameter in parameters[1:]], self.name)
        self.needs: dict[str, Any] = {}
        for parameter in parameters[1:]:
            if parameter.name in hints:
                self.needs[parameter.name] = hints[parameter.name]
            elif parameter.default is inspect.Parameter.empty:
                raise DefinitionError(f'{self.name}: parameter "{parameter.name}" needs an annotation, by which it is provided')
        self.defaults = {p.name for p in parameters if p.default is not inspect.Parameter.empty}

    @property
    def origin(self) -> str:
        """Where the function stands, for people."""
        code = getattr(self.function, "__code__", None)
        return f"{self.name} ({code.co_filename}:{code.co_firstlineno})" if code else self.name

    def unmet(self, providers: Providers) -> list[str]:
        """Return the parameters that nothing provides."""
        return [
            f"{name}: {getattr(kind, '__qualname__', kind)}"
            for name, kind in self.needs.items()
            if kind is not Context and name not in self.defaults and not providers.knows(kind)
        ]

    async def bind(self, providers: Providers, threads: ThreadPoolExecutor) -> Invoke:
        """Return the coroutine function that runs the handler with everything it needs."""
        given = {
            n: await providers.get(k) for n, k in self.needs.items() if k is not Context and (n not in self.defaults or providers.knows(k))
        }
        context_name = next((n for n, k in self.needs.items() if k is Context), None)
        function = self.function
        if inspect.iscoroutinefunction(function) and not given and context_name is None:
            return lambda message, _: function(message)

        def call(message: Message, context: Context) -> Any:
            return function(message, **given, **({context_name: context} if context_name else {}))

        if inspect.iscoroutinefunction(function):
            return call
        if inspect.isasyncgenfunction(function):
            return _yielding(call)
        return _threaded(call, threads, yields=inspect.isgeneratorfunction(function))


def _taken(function: Callable[..., Any], parameter: str) -> type[Message] | None:
    """Return the message class that the first parameter is annotated with, if it is one class."""
    try:
        hint = _hints(function, [parameter], "").get(parameter)
    except DefinitionError:
        return None
    return hint if isinstance(hint, type) and issubclass(hint, Message) else None


def _hints(function: Callable[..., Any], names: Sequence[str], owner: str) -> dict[str, Any]:
    """Resolve the annotations of some parameters, also of a function inside another one."""
    written = {name: kind for name, kind in getattr(function, "__annotations__", {}).items() if name in names}
    inside: dict[str, Any] = dict(inspect.getclosurevars(function).nonlocals) if inspect.isfunction(function) else {}
    try:
        return typing.get_type_hints(types.SimpleNamespace(__annotations__=written), getattr(function, "__globals__", {}), inside)
    except NameError as error:
        raise DefinitionError(f"{owner}: an annotation cannot be resolved ({error}); import it at the top of the module") from None


def _yielding(call: Callable[[Message, Context], AsyncIterator[Any]]) -> Invoke:
    async def invoke(message: Message, context: Context) -> None:
        async for yielded in call(message, context):
            context.then.append(_checked(yielded))

    return invoke


def _threaded(call: Callable[[Message, Context], Any], threads: ThreadPoolExecutor, *, yields: bool) -> Invoke:
    def collect(message: Message, context: Context) -> None:
        generator: Iterator[Any] = call(message, context)
        context.then.extend(_checked(yielded) for yielded in generator)

    inner = collect if yields else call

    async def invoke(message: Message, context: Context) -> Any:
        run = _Run()
        variables = contextvars.copy_context()
        running = asyncio.get_running_loop().run_in_executor(threads, lambda: variables.run(run, inner, message, context))
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            # A thread cannot be ended: its slot and its key stay taken until it has really ended, or the worker does.
            run.interrupt()
            await asyncio.wait((running,))
            raise

    return invoke


class _Run:
    """One call in a thread, which can be asked to stop where Python code runs."""

    def __init__(self) -> None:
        self._thread: int | None = None
        self._lock = threading.Lock()

    def __call__(self, inner: Callable[[Any, Context], Any], message: Any, context: Context) -> Any:
        with self._lock:
            self._thread = threading.get_ident()
        try:
            return inner(message, context)
        except Interrupted:
            return None
        except StopIteration as error:  # no future can hold one, and whoever waits would wait for ever
            raise RuntimeError("the handler raised StopIteration") from error
        finally:
            with self._lock:
                self._thread = None

    def interrupt(self) -> None:
        """Raise `Interrupted` in the thread; code that waits inside a C call sees it when that returns."""
        with self._lock:
            if self._thread is not None:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self._thread), ctypes.py_object(Interrupted))


class Interrupted(BaseException):
    """A synchronous handler ran out of time, or its worker stops."""


def _checked(yielded: Any) -> Message:
    if not isinstance(yielded, Message):
        raise TypeError(f"a handler may yield commands and events only, not {type(yielded).__name__}; return a result instead")
    return yielded
