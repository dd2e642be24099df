"""How an error is told: `Class: first line of its message`, whatever the error is."""

import json
import re
import statistics
from typing import Any, cast

import msgspec
import pytest

from chappe import Reject, RetryLater, Snooze
from chappe.failures import describe, first_line, summarize, verdict_of

SQL = "(sqlite3.IntegrityError) UNIQUE constraint failed: user.name\n[SQL: INSERT INTO user VALUES (?)]\n(Background on this error at: https://sqlalche.me/e/20/gkpj)"
PYDANTIC = "1 validation error for Order\ncount\n  Input should be a valid integer\n    For further information visit https://errors.pydantic.dev/2.9/v/int_type"
HTTPX = "Client error '404 Not Found' for url 'http://a/'\nFor more information check: https://developer.mozilla.org/en-US/docs/Web/HTTP/Status/404"


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class Deadly(Exception):
    def __str__(self) -> str:
        raise SystemExit(3)


class NoText(Exception):
    def __str__(self) -> str:
        return cast("str", 5)


class OddText(str):
    __slots__ = ()

    def splitlines(self, keepends: bool = False) -> Any:
        raise RuntimeError

    def strip(self, chars: str | None = None, /) -> str:
        raise RuntimeError


def raised(error: BaseException, cause: BaseException | None = None) -> BaseException:
    try:
        raise error from cause
    except BaseException as caught:  # noqa: BLE001 - to have it with its traceback
        return caught


def noted(error: Exception, note: str) -> Exception:
    error.add_note(note)
    return error


SUMMARIES = [
    (ValueError("no address"), "ValueError: no address"),
    (ValueError(), "ValueError"),
    (ValueError("  \n\n  "), "ValueError"),
    (ValueError("\n\n  no address\nmore"), "ValueError: no address"),
    (ValueError("one\r\ntwo"), "ValueError: one"),
    (ValueError("one\u2028two"), "ValueError: one"),
    (ValueError("a\tb"), "ValueError: a b"),
    (KeyError("name"), "KeyError: 'name'"),
    (RuntimeError(SQL), "RuntimeError: (sqlite3.IntegrityError) UNIQUE constraint failed: user.name"),
    (RuntimeError(PYDANTIC), "RuntimeError: 1 validation error for Order"),
    (RuntimeError(HTTPX), "RuntimeError: Client error '404 Not Found' for url 'http://a/'"),
    (msgspec.ValidationError("no"), "ValidationError: no"),
    (noted(ValueError("no address"), "tenant 12"), "ValueError: no address"),
    (ExceptionGroup("two\nlines", [ValueError("a"), TypeError("b")]), "ExceptionGroup: two (2 sub-exceptions)"),
    (ExceptionGroup("one", [ValueError("a")]), "ExceptionGroup: one (1 sub-exception)"),
    (BaseExceptionGroup("end", [KeyboardInterrupt()]), "BaseExceptionGroup: end (1 sub-exception)"),
    (Mute(), "Mute: (it cannot be written: RuntimeError)"),
    (Deadly(), "Deadly: (it cannot be written: SystemExit)"),
    (NoText(), "NoText: (it cannot be written: TypeError)"),
    (ValueError(OddText("no address")), "ValueError: no address"),
    (ValueError("\x1b[31mred\x07 \x85next"), "ValueError: \\x1b[31mred\\x07"),
    (ValueError("a\u202eb caf\udce9 \x7f\x9b"), "ValueError: a\\u202eb caf\\udce9 \\x7f\\x9b"),
    (ValueError("caf\u00e9\u00a0!"), "ValueError: caf\u00e9\u00a0!"),
    (SystemExit(2), "SystemExit: 2"),
    (KeyboardInterrupt(), "KeyboardInterrupt"),
    (GeneratorExit(), "GeneratorExit"),
]


@pytest.mark.parametrize(("error", "line"), SUMMARIES)
def test_an_error_is_told_by_its_class_and_the_first_line_of_its_message(error: BaseException, line: str) -> None:
    assert summarize(error) == line
    kept = describe(raised(error))
    assert kept.split("\n", 1)[0] == first_line(kept) == line
    kept.encode()


def test_a_long_line_is_cut() -> None:
    line = summarize(ValueError("x" * 10_000_000))
    assert len(line) < 600
    assert line.endswith("…")


def test_what_is_kept_has_the_traceback_with_causes_and_notes() -> None:
    kept = describe(raised(noted(ValueError("no address"), "tenant 12"), raised(OSError("the disk"))))
    assert re.match(r"ValueError: no address\n  at tests\.test_failures:raised line \d+: raise error from cause\n\nTraceback \(most", kept)
    assert "OSError: the disk" in kept
    assert "direct cause" in kept
    assert "tenant 12" in kept
    assert "test_failures.py" in kept


def test_what_is_kept_of_a_group_names_its_members_also_those_of_inner_groups() -> None:
    inner = ExceptionGroup("inner", [KeyError("b"), Mute()])
    kept = describe(raised(ExceptionGroup("outer", [raised(ValueError("a")), inner])))
    lines = kept.split("\n")
    assert lines[0] == "ExceptionGroup: outer (2 sub-exceptions)"
    assert lines[1].startswith("  at tests.test_failures:raised line ")
    assert lines[2:5] == ["  ValueError: a", "  KeyError: 'b'", "  Mute: (it cannot be written: RuntimeError)"]


def test_what_is_kept_of_a_long_error_has_its_line_and_its_end() -> None:
    kept = describe(raised(OSError("broken\n" + "x" * 20_000 + "the end")))
    assert len(kept) < 8100
    assert kept.startswith("OSError: broken\n")
    assert kept.endswith("the end")


def test_a_group_of_thousands_and_one_a_thousand_deep_can_be_told() -> None:
    deep: Exception = ValueError("deep")
    for _ in range(1000):
        deep = ExceptionGroup("level", [deep])
    for group in (ExceptionGroup("many", [ValueError(str(n)) for n in range(1000)]), deep):
        assert len(describe(raised(group))) < 8100


@pytest.mark.parametrize(
    ("errors", "index"),
    [
        ([Reject("never")], 0),
        ([ValueError("a"), Reject("never")], 1),
        ([RetryLater("busy"), Reject("never"), Reject("again")], 1),
        ([ExceptionGroup("inner", [Reject("never")])], None),
        ([RetryLater("a", after=1.0), RetryLater("b", after=5.0), Snooze(9.0)], 1),
        ([Snooze(1.0), Snooze(3.0)], 1),
    ],
)
def test_a_group_with_a_verdict_counts_as_that_verdict(errors: list[Exception], index: int | None) -> None:
    group = ExceptionGroup("unhandled errors in a TaskGroup", errors)
    expected = errors[0].exceptions[0] if index is None and isinstance(errors[0], ExceptionGroup) else errors[index or 0]
    assert verdict_of(group) is expected


@pytest.mark.parametrize("errors", [[ValueError("a")], [ValueError("a"), RetryLater("busy")], [Snooze(1.0), KeyError("b")]])
def test_a_group_with_another_error_and_no_reject_is_a_failure(errors: list[Exception]) -> None:
    group = ExceptionGroup("group", errors)
    assert verdict_of(group) is group


def test_a_reject_beside_another_failure_keeps_the_group_as_its_cause() -> None:
    group = ExceptionGroup("group", [ValueError("a"), Reject("never")])
    assert verdict_of(group).__cause__ is group
    assert verdict_of(ExceptionGroup("group", [Reject("never")])).__cause__ is None


def place_of(error: BaseException) -> str:
    return next(line for line in describe(error).split("\n") if line.startswith("  at "))


def test_the_place_of_an_error_is_the_innermost_of_the_application_and_not_that_of_a_library() -> None:
    def handler(text: str) -> None:
        json.loads(text)

    def outer(error: Exception) -> None:
        raised_in(error)

    for call, function, code in [
        (lambda: handler("{"), "test_the_place", "json.loads(text)"),
        (lambda: statistics.mean([]), "<lambda>", "statistics.mean"),
        (lambda: outer(Reject("no such customer 12")), "raised_in line", "raise error"),
        (lambda: outer(ExceptionGroup("g", [ValueError("a")])), "raised_in line", "raise error"),
    ]:
        with pytest.raises(Exception) as caught:  # noqa: PT011 - any
            call()
        place = place_of(caught.value)
        assert function in place and code in place, place
        assert "(in tests.test_failures:" in place


def raised_in(error: Exception) -> None:
    raise error


def test_an_error_that_was_raised_nowhere_or_outside_of_the_application_has_no_place() -> None:
    assert "\n  at " not in describe(ValueError("a"))
    assert "\n  at " not in describe(Reject("never"))
