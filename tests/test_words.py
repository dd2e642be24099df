"""Counts are said in English."""

import pytest

from chappe.words import counted


@pytest.mark.parametrize(("count", "said"), [(0, "0 messages"), (1, "1 message"), (2, "2 messages")])
def test_one_is_said_without_the_plural(count: int, said: str) -> None:
    assert counted(count, "message") == said


def test_an_irregular_plural_is_given() -> None:
    assert [counted(n, "process", "processes") for n in (1, 2)] == ["1 process", "2 processes"]
