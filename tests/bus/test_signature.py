"""Declarations: names, places and annotations, whatever is in front of the function that was written."""

from __future__ import annotations

import functools
import unittest.mock
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Optional

import pytest

from chappe import Command, Context
from chappe.bus.signature import NOTHING, Declaration, members, plain
from chappe.errors import DefinitionError

from .decorators import Traced, bare, wrapped

if TYPE_CHECKING:
    from datetime import date as Elsewhere


class Do(Command, queue="q"):
    pass


class Tool:
    pass


async def written(command: Do, tool: Annotated[Tool, "sharp"], missing: Elsewhere, rest: Optional[Tool] = None) -> None: ...  # noqa: UP045


class Service:
    async def method(self, command: Do, tool: Tool) -> None: ...

    bound = functools.partialmethod(method, tool=None)

    @staticmethod
    def static(command: Do) -> None: ...

    @classmethod
    def of_class(cls, command: Do) -> None: ...


class Odd:
    __signature__ = "none"

    def __call__(self) -> None: ...


class Called:
    async def __call__(self, command: Do, tool: Tool) -> None: ...


@pytest.mark.parametrize(
    "function",
    [written, wrapped(written), wrapped(wrapped(written)), Traced(written), functools.partial(written), wrapped(Traced(written))],
    ids=["itself", "wrapped", "wrapped-twice", "object", "partial", "mixed"],
)
def test_annotations_are_resolved_in_the_module_in_which_they_were_written_and_keep_their_extras(function: Callable[..., Any]) -> None:
    declared = Declaration(function)
    assert declared.name == f"{__name__}.written"
    assert declared.origin == f"{__name__}.written ({__file__}:{written.__code__.co_firstlineno})"
    assert declared.hint("command") is Do
    assert declared.hint("tool") == Annotated[Tool, "sharp"]
    assert members(declared.hint("rest")) == (Tool, type(None))
    with pytest.raises(DefinitionError, match=r"name 'Elsewhere' is not defined\); define or import it .*not only under TYPE_CHECKING"):
        declared.hint("missing")


@pytest.mark.parametrize(
    ("function", "name", "parameters"),
    [
        (Service().method, "Service.method", ["command", "tool"]),
        (Service().bound, "Service.method", ["command", "tool"]),
        (Service.static, "Service.static", ["command"]),
        (Service.of_class, "Service.of_class", ["command"]),
        (Called(), "Called", ["command", "tool"]),
        (functools.partial(Called(), tool=None), "Called", ["command", "tool"]),
        (Called().__call__, "Called.__call__", ["command", "tool"]),
        (staticmethod(written), "written", ["command", "tool", "missing", "rest"]),
        (bare(written), "bare.<locals>.call", ["args", "kwargs"]),
    ],
    ids=["bound", "partialmethod", "static", "class", "object", "partial-object", "call", "staticmethod", "bare"],
)
def test_whatever_can_be_called_has_a_name_and_a_place(function: Callable[..., Any], name: str, parameters: list[str]) -> None:
    declared = Declaration(function)
    assert declared.qualname == name
    assert declared.short_name == name.rpartition(".")[2]
    assert ".py:" in declared.origin
    assert list(declared.parameters) == parameters
    if "command" in parameters:
        assert declared.hint("command") is Do


@pytest.mark.parametrize("function", [[].append, print, unittest.mock.Mock(), unittest.mock.AsyncMock(), unittest.mock.MagicMock()])
def test_builtins_and_mocks_have_names_too(function: Callable[..., Any]) -> None:
    declared = Declaration(function)
    assert declared.name.count(".") >= 1 and "None" not in declared.name
    assert all(declared.hint(name) is NOTHING for name in declared.parameters)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (5, "5 is no function"),
        (Tool, "is a class: to call it makes an instance and runs nothing"),
        (vars(Service)["of_class"], "classmethod that is not bound yet; register it below its class"),
        (vars(Service)["bound"], "no function, nor anything else that can be called"),
        (Odd(), "Odd .*: its parameters cannot be read"),
    ],
)
def test_what_cannot_be_called_is_refused_by_a_sentence(given: Any, says: str) -> None:
    with pytest.raises(DefinitionError, match=says):
        Declaration(given)


def test_annotations_of_local_functions_name_local_classes() -> None:
    class Local(Command, queue="q"):
        pass

    class Holder:
        class Inner:
            pass

        def method(self, command: Local, inner: Inner) -> None: ...

        read = Declaration(method)

    def recursive(command: Local, context: Context) -> None:
        recursive(command, context)

    def deep() -> Declaration:
        def deeper(command: Local, holder: Holder) -> None: ...

        return Declaration(deeper)

    assert Declaration(wrapped(recursive)).hint("command") is Local
    assert [deep().hint(name) for name in ("command", "holder")] == [Local, Holder]
    assert Holder.read.hint("command") is Local
    assert Holder.read.is_in_class and not Declaration(recursive).is_in_class


def test_what_a_partial_has_filled_is_known() -> None:
    declared = Declaration(functools.partial(functools.partial(written, tool=Tool()), rest=None))
    assert declared.given == {"tool", "rest"}


def test_a_type_is_read_through_annotated_and_unions() -> None:
    assert plain(Annotated[Annotated[int, 1], 2]) is int
    assert members(Annotated[int | Annotated[str, 1], 2]) == (int, str)
    assert members(Any) == (Any,)


def test_what_is_no_annotation_is_said() -> None:
    def wrong(command: "1 +") -> None: ...  # type: ignore # noqa: F722, UP037

    with pytest.raises(DefinitionError, match="is no annotation"):
        Declaration(wrong).hint("command")
