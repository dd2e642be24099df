"""A plain function as a command: sugar over the same path."""

from __future__ import annotations

import copy
import functools
import inspect
import types
import typing
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Generator,
    Iterable,
    Iterator,
    Mapping,
)
from typing import Any, Generic, ParamSpec, Protocol, TypeVar, overload

import msgspec

from chappe.bus.handler import Handler, wants_context
from chappe.bus.providers import Providers
from chappe.bus.signature import NOTHING, Declaration
from chappe.errors import DefinitionError
from chappe.messages.capabilities import Capabilities
from chappe.messages.envelope import Receipt
from chappe.messages.fields import refuse_default
from chappe.messages.message import Command, Message

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C")


class Sender(Protocol):
    """What sends the command of a task; the application is one."""

    def send(self, message: Message) -> Receipt: ...

    async def asend(self, message: Message) -> Receipt: ...

    def ask(self, command: Command, *, returns: Any) -> Any: ...

    async def aask(self, command: Command, *, returns: Any) -> Any: ...


class TaskMaker(Protocol):
    """What `app.task(…)` with capabilities returns: it turns a function into a task."""

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> Task[P, R, Coroutine[Any, Any, R]]: ...
    @overload
    def __call__(self, function: Callable[P, AsyncIterator[Any]], /) -> Task[P, None, AsyncIterator[Any]]: ...
    @overload
    def __call__(self, function: Callable[P, Generator[Any, Any, R]], /) -> Task[P, R, Generator[Any, Any, R]]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Task[P, R, R]: ...


class Task(Generic[P, R, C]):
    """A function as a command: call it as before, or `.send(…)` it with the same arguments.

    P are its parameters, R is its result, and C what a call returns: R itself, or a coroutine of it.
    """

    def __init__(self, sender: Sender, providers: Providers, function: Callable[P, C], capabilities: Capabilities) -> None:
        """Make the command class from the signature: what is provided is no field of it."""
        self.function = function
        self._sender = sender
        declared = Declaration(function)
        name = _class_name(declared)
        fields = {
            n: (hint, parameter)
            for n, parameter in declared.parameters.items()
            if n not in declared.given and not wants_context(hint := _travelling(declared, n)) and not providers.knows(hint)
        }
        given: dict[str, Any] = {**capabilities}
        self.command: type[Command] = types.new_class(name, (Command,), given, lambda body: body.update(_namespace(declared, fields)))
        self._positional = [n for n, (_, parameter) in fields.items() if parameter.kind is not inspect.Parameter.KEYWORD_ONLY]
        first = [n for n, (_, parameter) in fields.items() if parameter.kind is inspect.Parameter.POSITIONAL_ONLY]
        others = [n for n in fields if n not in first]
        self._returns = _result_of(declared)
        call: Callable[..., C] = function

        def unpack(message: Any, /, **provided: Any) -> Any:
            return call(*[getattr(message, n) for n in first], **{n: getattr(message, n) for n in others}, **provided)

        self.handler = Handler(function, unpack=unpack, provided=[n for n in declared.parameters if n not in fields])

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> C:
        """Call the function itself, here and now."""
        return self.function(*args, **kwargs)

    def message(self, /, *args: P.args, **kwargs: P.kwargs) -> Command:
        """Return the command for these arguments."""
        if len(args) > len(self._positional):
            raise TypeError(f"{self.handler.name} takes {len(self._positional)} arguments by position that travel, not {len(args)}")
        placed = dict(zip(self._positional, args, strict=False))
        if twice := placed.keys() & kwargs.keys():
            raise TypeError(f"{self.handler.name} was given {', '.join(sorted(twice))} by position and by name; give each once")
        return self.command(**placed, **kwargs)

    def send(self, /, *args: P.args, **kwargs: P.kwargs) -> Receipt:
        """Send the command; see `App.send`."""
        return self._sender.send(self.message(*args, **kwargs))

    async def asend(self, /, *args: P.args, **kwargs: P.kwargs) -> Receipt:
        """See `send`."""
        return await self._sender.asend(self.message(*args, **kwargs))

    def ask(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Send the command and wait for what the function returns, of the type that it is annotated with; see `App.ask`."""
        return self._sender.ask(self.message(*args, **kwargs), returns=self._returns)

    async def aask(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """See `ask`."""
        return await self._sender.aask(self.message(*args, **kwargs), returns=self._returns)


def _travelling(declared: Declaration, name: str) -> Any:
    """Return the type of a parameter of a task; raises `DefinitionError` for one that no message could carry."""
    kind, where = declared.parameters[name].kind, f'{declared.origin}: parameter "{name}"'
    if kind is inspect.Parameter.VAR_POSITIONAL:
        raise DefinitionError(f"{where} stands for any number of values, and a command has fields; take one list: {name}: list[…]")
    if kind is inspect.Parameter.VAR_KEYWORD:
        raise DefinitionError(f"{where} stands for any names, and a command has known fields; take one dict: {name}: dict[str, …]")
    hint = declared.hint(name)
    if hint is NOTHING:
        raise DefinitionError(f"{where} needs an annotation: the type of a field, or a type that is provided")
    return hint


def _result_of(declared: Declaration) -> Any:
    """Return the type of the result, as far as it is known: `Any` takes everything."""
    try:
        kind = declared.returns()
    except DefinitionError:  # it is known to type checkers only
        return Any
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (Generator, Coroutine, Awaitable):
        return inner[-1]
    if origin in (AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Iterator):
        return Any
    return Any if kind is NOTHING else kind


def _class_name(declared: Declaration) -> str:
    name = "".join(word.title() for word in declared.short_name.split("_"))
    if not name.isidentifier():
        raise DefinitionError(f"{declared.origin} needs a name, because its command is called by it; write it with def")
    return name


def _namespace(declared: Declaration, fields: Mapping[str, tuple[Any, inspect.Parameter]]) -> dict[str, Any]:
    """Return the body of the command's class."""
    given = {n: (hint, parameter.default) for n, (hint, parameter) in fields.items() if parameter.default is not NOTHING}
    for name, (hint, default) in given.items():
        refuse_default(declared.origin, name, hint, default)
    defaults = {n: _default(default) for n, (_, default) in given.items()}
    hints = {n: hint for n, (hint, _) in fields.items()}
    return {"__annotations__": hints, "__module__": declared.module, "__doc__": declared.doc, **defaults}


def _default(value: Any) -> Any:
    """Return the default of a field; one that can be changed in place is copied for each message."""
    try:
        hash(value)
    except TypeError:
        return msgspec.field(default_factory=functools.partial(copy.deepcopy, value))
    return value
