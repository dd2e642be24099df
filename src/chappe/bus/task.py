"""A plain function as a command: sugar over the same path."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable
from typing import Any, Generic, ParamSpec, Protocol, TypeVar

from chappe.bus.context import Context
from chappe.bus.handler import Handler
from chappe.bus.providers import Providers
from chappe.messages.capabilities import Capabilities
from chappe.messages.envelope import Receipt
from chappe.messages.message import Command, Message

P = ParamSpec("P")
R = TypeVar("R")


class Sender(Protocol):
    """What sends the command of a task; the application is one."""

    def send(self, message: Message) -> Receipt: ...

    async def asend(self, message: Message) -> Receipt: ...

    def ask(self, command: Command) -> Any: ...


class Task(Generic[P, R]):
    """A function as a command: call it as before, or `.send(…)` it with the same arguments."""

    def __init__(self, sender: Sender, providers: Providers, function: Callable[P, R], capabilities: Capabilities) -> None:
        """Make the command class from the signature: what is provided is no field of it."""
        self.function = function
        self._sender = sender
        signature = inspect.signature(function)
        handler = Handler(_no_message(function), name=f"{function.__module__}.{function.__qualname__}")
        fields = {
            name: (hint, parameter.default) if parameter.default is not inspect.Parameter.empty else (hint, ...)
            for name, parameter in signature.parameters.items()
            if (hint := handler.needs.get(name)) is not None and hint is not Context and not providers.knows(hint)
        }
        self._names = list(fields)
        name = "".join(word.title() for word in function.__name__.split("_"))
        given: dict[str, Any] = {"queue": "default", **capabilities}
        namespace = {
            "__annotations__": {n: h for n, (h, _) in fields.items()},
            "__module__": function.__module__,
            "__doc__": function.__doc__,
            **{n: d for n, (_, d) in fields.items() if d is not ...},
        }
        self.command: type[Command] = types.new_class(name, (Command,), given, lambda body: body.update(namespace))
        names = self._names
        call: Callable[..., R] = function

        def unpack(message: Any, **needs: Any) -> Any:
            return call(**{n: getattr(message, n) for n in names}, **needs)

        unpacked = _coloured(function, unpack)
        hints = {n: k for n, k in handler.needs.items() if n not in fields}
        unpacked.__signature__ = inspect.Signature(
            [inspect.Parameter("message", inspect.Parameter.POSITIONAL_OR_KEYWORD), *(signature.parameters[n] for n in hints)]
        )
        unpacked.__annotations__ = {"message": self.command, **hints}
        self.handler = Handler(unpacked, name=handler.name)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function itself, here and now."""
        return self.function(*args, **kwargs)

    def message(self, *args: P.args, **kwargs: P.kwargs) -> Command:
        """Return the command for these arguments."""
        if len(args) > len(self._names):
            raise TypeError(f"{self.handler.name} takes {len(self._names)} arguments that travel, not {len(args)}")
        return self.command(**{**dict(zip(self._names, args, strict=False)), **kwargs})

    def send(self, *args: P.args, **kwargs: P.kwargs) -> Receipt:
        """Send the command; see `App.send`."""
        return self._sender.send(self.message(*args, **kwargs))

    async def asend(self, *args: P.args, **kwargs: P.kwargs) -> Receipt:
        """See `send`."""
        return await self._sender.asend(self.message(*args, **kwargs))

    def ask(self, *args: P.args, **kwargs: P.kwargs) -> Any:
        """Send the command and wait for what the function returns; see `App.ask`."""
        return self._sender.ask(self.message(*args, **kwargs))


def _no_message(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a stand-in whose first parameter is a message, to have the rest of the signature read."""

    def stand_in() -> None: ...

    signature = inspect.signature(function)
    first = inspect.Parameter("message_", inspect.Parameter.POSITIONAL_ONLY)
    stand_in.__signature__ = signature.replace(parameters=[first, *signature.parameters.values()])
    stand_in.__annotations__ = inspect.get_annotations(function, eval_str=True)
    return stand_in


def _coloured(function: Callable[..., Any], call: Callable[..., Any]) -> Callable[..., Any]:
    """Return `call` the colour of `function`, by which it is run."""
    if inspect.isasyncgenfunction(function):

        async def generate(*args: Any, **needs: Any) -> Any:
            async for item in call(*args, **needs):
                yield item

        return generate
    if inspect.iscoroutinefunction(function):

        async def run(*args: Any, **needs: Any) -> Any:
            return await call(*args, **needs)

        return run
    if inspect.isgeneratorfunction(function):

        def generate_sync(*args: Any, **needs: Any) -> Any:
            yield from call(*args, **needs)

        return generate_sync

    def plain(*args: Any, **needs: Any) -> Any:
        return call(*args, **needs)

    return plain
