"""The errors: the tree in the docstring is the tree in the code."""

import inspect
import re

import pytest

from chappe import errors
from chappe.errors import ChappeError, Verdict


def drawn() -> dict[str, tuple[str | None, str]]:
    """Read the docstring: class name to its parent and its sentence."""
    found: dict[str, tuple[str | None, str]] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"^ {4}([│ ├└─]*)([A-Z]\w+) *(.*)$", line)
        if match:
            depth = len(match[1]) // 4
            del path[depth:]
            found[match[2]] = (path[-1] if path else None, match[3])
            path.append(match[2])
    return found


def real() -> dict[str, str | None]:
    classes = [c for _, c in inspect.getmembers(errors, inspect.isclass) if c.__module__ == errors.__name__]
    return {c.__name__: c.__base__.__name__ if c.__base__ in classes and c.__base__ is not None else None for c in classes}


def test_the_tree_in_the_docstring_is_the_real_one() -> None:
    assert {name: parent for name, (parent, _) in drawn().items()} == real()


def test_every_error_is_drawn_with_a_sentence() -> None:
    assert [name for name, (_, text) in drawn().items() if not text and name not in ("ChappeError",)] == []


def test_every_error_has_an_exit_code_of_the_table() -> None:
    classes = [c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, ChappeError)]
    assert {c.exit_code for c in classes} <= {1, 2, 69, 75, 78}


@pytest.mark.parametrize(
    ("name", "code"),
    [("InvalidMessage", 2), ("BrokerUnavailable", 69), ("Unconfirmed", 75), ("StorageFull", 75), ("InvalidSettings", 78), ("CorruptStorage", 78), ("AlreadyOwned", 75),
     ("NotFound", 1), ("Unroutable", 1), ("ResultTimeout", 75)],
)  # fmt: skip
def test_exit_codes(name: str, code: int) -> None:
    assert getattr(errors, name).exit_code == code


def test_verdicts_are_no_errors_of_ours() -> None:
    assert not issubclass(Verdict, ChappeError)
