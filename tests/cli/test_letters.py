"""`chappe dead`."""

from collections.abc import Callable

import pytest

from .conftest import Chappe


@pytest.fixture
def letters(chappe: Chappe, worked: Callable[[], None]) -> list[int]:
    """Two dead letters, by number."""
    for _ in range(2):
        chappe("send", "order", "customer=Eve")
    worked()
    return [letter["number"] for letter in chappe("dead", "list", "--json").json]


def test_letters_are_listed_shown_mended_retried_and_discarded(chappe: Chappe, letters: list[int], worked: Callable[[], None]) -> None:
    first, second = letters
    listed = chappe("dead", "list", "--json").json
    assert {(row["queue"], row["type"], row["reason"]) for row in listed} == {("orders", "order", "we do not sell to Eve")}
    assert "we do not sell to Eve" in chappe("dead", "list").out

    shown = chappe("dead", "show", str(first)).json[0]
    assert shown["body"]["customer"] == "Eve"
    assert shown["id"]

    chappe("dead", "edit", str(first), '{"customer": "Ada"}')
    assert chappe("dead", "show", str(first)).json[0]["body"] == {"customer": "Ada"}
    assert chappe("dead", "retry", str(first)).out == "1\n"
    worked()
    assert [row["number"] for row in chappe("dead", "list", "--json").json] == [second]

    assert chappe("dead", "discard", str(second), "--force").out == "1\n"
    assert chappe("dead", "list", "--json").json == []


def test_edit_reads_stdin_and_refuses_what_is_no_json(chappe: Chappe, letters: list[int]) -> None:
    first = str(letters[0])
    chappe("dead", "edit", first, "-", stdin='{"customer": "Bob"}')
    assert chappe("dead", "show", first).json[0]["body"] == {"customer": "Bob"}
    refused = chappe("dead", "edit", first, "{customer}", code=2)
    assert "not JSON" in refused.err
    assert chappe("dead", "show", first).json[0]["body"] == {"customer": "Bob"}


def test_a_whole_queue_is_retried_or_discarded(chappe: Chappe, letters: list[int], worked: Callable[[], None]) -> None:
    assert chappe("dead", "retry", "-Q", "orders").out == "2\n"
    assert chappe("dead", "list", "--json").json == []
    worked()
    assert len(chappe("dead", "list", "-Q", "orders", "--json").json) == 2
    assert chappe("dead", "discard", "-Q", "orders", "-f").out == "2\n"


def test_letters_of_one_cause_are_a_group_that_is_retried_and_discarded(
    chappe: Chappe, letters: list[int], worked: Callable[[], None]
) -> None:
    (group,) = chappe("dead", "groups", "--json").json
    assert (group["letters"], group["queue"], group["type"], group["state"]) == (2, "orders", "order", "open")
    assert group["last error"] == "we do not sell to Eve"
    assert group["place"]
    assert chappe("dead", "retry", "-g", group["group"]).out == "2\n"
    assert chappe("dead", "groups", "--json").json == []
    worked()
    assert "nothing" in chappe("dead", "discard", "-f", "--group", "nothing", code=1).err
    assert chappe("dead", "discard", "-f", "--group", group["group"]).out == "2\n"


def test_discard_asks_first(chappe: Chappe, letters: list[int]) -> None:
    refused = chappe("dead", "discard", str(letters[0]), stdin="n\n", code=1)
    assert "for good?" in refused.err
    assert refused.out == ""
    assert len(chappe("dead", "list", "--json").json) == 2


def test_paging_by_number(chappe: Chappe, letters: list[int]) -> None:
    assert [row["number"] for row in chappe("dead", "list", "-n", "1", "--json").json] == letters[:1]
    assert [row["number"] for row in chappe("dead", "list", "--after", str(letters[0]), "--json").json] == letters[1:]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("show", "99"), 1, 'no dead letter has the number 99; "chappe dead list" shows them'),
        (("edit", "99", "{}"), 1, "no dead letter has the number 99"),
        (("show", "x"), 2, "not a valid integer"),
        (("retry",), 2, "name numbers, a queue with -Q, or a group with -g"),
        (("retry", "1", "-Q", "orders"), 2, "name numbers, a queue with -Q, or a group with -g"),
        (("discard", "--force"), 2, "name numbers, a queue with -Q, or a group with -g"),
        (("discard",), 2, "name numbers, a queue with -Q, or a group with -g"),
        (("list", "-Q", "nowhere"), 1, "nowhere"),
        (("list", "-n", "0"), 2, "0 is not in the range"),
    ],
)
def test_wrong_input_is_answered_with_what_would_be_right(chappe: Chappe, arguments: tuple[str, ...], code: int, said: str) -> None:
    chappe("send", "order", "customer=Ada")
    ended = chappe("dead", *arguments, code=code)
    assert said in ended.err
    assert ended.out == ""
