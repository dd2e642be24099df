"""How something callable was declared: its name, where it stands, and its annotations, read where they were written."""

from __future__ import annotations

import contextlib
import functools
import inspect
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Final

from chappe.errors import DefinitionError
from chappe.messages.fields import ADVICE
from chappe.messages.shape import names_around

NOTHING: Final = inspect.Parameter.empty
_VARIADIC: Final = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_DEEPEST: Final = 50  # wrappers around one function: an object that answers to every name would go on for ever


class Declaration:
    """A function, a method, a partial or an object with `__call__`, as it was written."""

    def __init__(self, function: Callable[..., Any]) -> None:
        """Read the signature; raises `DefinitionError` for what cannot be called, or not be looked into."""
        self.function = function
        self._layers = list(_layers(function))
        self.module, self.qualname = _named(self._layers)
        self.name = f"{self.module}.{self.qualname}"
        code = next((layer.__code__ for layer in reversed(self._layers) if inspect.isfunction(layer)), None)
        self.origin = f"{self.name} ({code.co_filename}:{code.co_firstlineno})" if code else self.name
        if isinstance(function, type) or not callable(function):
            raise DefinitionError(f"{self._shown()} is {_no_function(function)}")
        try:
            self.parameters: Mapping[str, inspect.Parameter] = inspect.signature(function).parameters
        except (ValueError, TypeError) as error:
            raise DefinitionError(f"{self.origin}: its parameters cannot be read ({error}); write a function around it") from None
        except NameError as error:
            raise self.unresolved(error) from None

    @property
    def short_name(self) -> str:
        """The last part of the name, as the function is called where it stands."""
        return self.qualname.rpartition(".")[2]

    @property
    def doc(self) -> str | None:
        """What the function says of itself."""
        return next((layer.__doc__ for layer in self._layers if inspect.isfunction(layer)), None)

    @property
    def is_in_class(self) -> bool:
        """Tell whether it is a function in the body of a class, which nobody has bound to an instance."""
        return "." in self.qualname.rpartition("<locals>.")[2] and all(inspect.isfunction(layer) for layer in self._layers)

    @property
    def given(self) -> frozenset[str]:
        """Return the names of parameters that a `functools.partial` has filled already."""
        return frozenset(name for layer in self._layers if isinstance(layer, functools.partial) for name in layer.keywords)

    def hint(self, parameter: str) -> Any:
        """Return the annotation of a parameter, or `NOTHING`; raises `DefinitionError` if a name in it is not there."""
        return self._resolved(self.parameters[parameter].annotation)

    def returns(self) -> Any:
        """Return the annotation of what it returns, or `NOTHING`; raises as `hint` does."""
        return self._resolved(inspect.signature(self.function).return_annotation)

    def unresolved(self, error: NameError | AttributeError) -> DefinitionError:
        """Return the error for an annotation that names something which is not there when the program runs."""
        return DefinitionError(f"{self.origin}: an annotation cannot be resolved ({error}); {ADVICE}")

    def _resolved(self, written: Any) -> Any:
        if written is NOTHING:
            return NOTHING
        failed: NameError | AttributeError | None = None
        for layer in [layer for layer in reversed(self._layers) if hasattr(layer, "__globals__")] or [None]:
            names = {} if layer is None else _names_seen(layer)
            holder = types.SimpleNamespace(__annotations__={"it": written})
            try:
                return typing.get_type_hints(holder, getattr(layer, "__globals__", {}), names, include_extras=True)["it"]
            except (NameError, AttributeError) as error:
                failed = failed or error
            except (SyntaxError, TypeError) as error:
                raise DefinitionError(f"{self.origin}: {written!r} is no annotation ({error}); write a type") from None
        assert failed is not None
        raise self.unresolved(failed)

    def _shown(self) -> str:
        return self.origin if callable(self.function) else repr(self.function)


def needs_of(declared: Declaration, names: Sequence[str]) -> tuple[dict[str, Any], frozenset[str]]:
    """Return the types of those of these parameters that are to be provided, and the names of those that have a default.

    Raises `DefinitionError` for a parameter that nothing says how to provide, or that cannot be given by its name.
    """
    needs: dict[str, Any] = {}
    defaults: set[str] = set()
    for parameter in [declared.parameters[name] for name in names]:
        if parameter.kind in _VARIADIC or parameter.name in declared.given:
            continue
        where = f'{declared.origin}: parameter "{parameter.name}"'
        if parameter.kind is inspect.Parameter.POSITIONAL_ONLY:
            raise DefinitionError(
                f'{where} is given by its name, but stands in front of the "/"; put that further to the left, or leave it out'
            )
        hint = declared.hint(parameter.name)
        if parameter.default is not NOTHING:
            defaults.add(parameter.name)
        elif hint is NOTHING:
            raise DefinitionError(f"{where} needs an annotation, by which it is provided")
        if hint is not NOTHING:
            needs[parameter.name] = hint
    return needs, frozenset(defaults)


def plain(hint: Any) -> Any:
    """Return a type without what `Annotated` says of it."""
    return plain(typing.get_args(hint)[0]) if typing.get_origin(hint) is Annotated else hint


def members(hint: Any) -> tuple[Any, ...]:
    """Return the types of a union, or the type itself, without what `Annotated` says of them."""
    hint = plain(hint)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return tuple(one for member in typing.get_args(hint) for one in members(member))
    return (hint,)


def _no_function(given: Any) -> str:
    if isinstance(given, classmethod):
        return "a classmethod that is not bound yet; register it below its class, as Class.method"
    if isinstance(given, type):
        return "a class: to call it makes an instance and runs nothing; register a function, or an instance that can be called"
    return "no function, nor anything else that can be called"


def _layers(function: Any) -> Iterator[Any]:
    """Yield what is called and all that it wraps, from the outermost to the function that was written."""
    for _ in range(_DEEPEST):
        yield function
        if isinstance(function, functools.partial):
            function = function.func
        elif inspect.ismethod(function):
            function = function.__func__
        elif callable(wrapped := _attribute(function, "__wrapped__")):
            function = wrapped
        elif callable(function) and not isinstance(function, type) and inspect.isfunction(call := _attribute(type(function), "__call__")):
            function = call
        else:
            return


def _named(layers: list[Any]) -> tuple[str, str]:
    """Return the module and the qualified name of the outermost layer that has a name of its own; an object has that of its class."""
    for layer in layers:
        name = _attribute(layer, "__qualname__")
        if isinstance(name, str):
            return _attribute(layer, "__module__") or "builtins", name
        if not isinstance(layer, functools.partial) and not callable(_attribute(layer, "__wrapped__")):
            return type(layer).__module__, type(layer).__qualname__
    return type(layers[0]).__module__, type(layers[0]).__qualname__


def _attribute(thing: Any, name: str) -> Any:
    """Return an attribute, or nothing: what is only looked at may raise what it likes."""
    try:
        return getattr(thing, name, None)
    except Exception:  # a property or a __getattr__ of the user's
        return None


def _names_seen(function: Any) -> dict[str, Any]:
    """Return the names that a function saw beside those of its module: its cells, and what the running code around it has."""
    names: dict[str, Any] = {kind.__name__: kind for kind in getattr(function, "__type_params__", ())}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):  # it has no value yet: the function's own name, perhaps
            names[name] = cell.cell_contents
    return {**names_around(function.__qualname__, function.__globals__), **names}
