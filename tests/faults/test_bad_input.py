"""Wrong input through every door: each row of the table gets its answer, and harms nobody."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .inputs.house import House
from .inputs.row import Answer, Row, fits
from .inputs.table import DOORS, page

ROOT = Path(__file__).resolve().parents[2]
SLOW = {"http-slow-headers"}  # `tests/web/test_http_protocol.py` has the same with a shorter deadline
PAGE = ROOT / "docs" / "reference" / "bad-input.md"


@pytest.fixture(scope="session")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """The processes that all rows are sent to; they must outlive the last of them."""
    house = House(tmp_path_factory.mktemp("house"))
    yield house
    house.close()


def rows(*doors: str) -> list[object]:
    """Return the rows of some doors as parameters; those that take as long as a deadline of ours lasts are for the proof."""
    slow = pytest.mark.proof
    return [pytest.param(row, id=row.id, marks=slow if row.id in SLOW else ()) for door in DOORS if door.name in doors for row in door.rows]


def assert_answered(row: Row, answer: Answer) -> None:
    assert answer.code == row.answer, answer
    assert fits(row.says, answer.text), f"{row.says!r} is not in\n{answer.text}"


@pytest.mark.parametrize("row", rows("http", "wire"))
def test_a_wrong_request_is_answered_and_stores_nothing(row: Row, house: House) -> None:
    before, published = house.census()
    assert_answered(row, row.send(house))
    house.assert_unharmed()
    assert house.census() == (before, published + row.passes), "something was stored"


@pytest.mark.parametrize("row", rows("command line", "configuration", "files"))
def test_a_process_that_cannot_do_what_it_is_told_says_so_and_changes_nothing(row: Row) -> None:
    assert_answered(row, row.send(None))


@pytest.mark.parametrize("row", rows("declarations"))
def test_a_wrong_declaration_is_refused_where_it_is_written(row: Row) -> None:
    assert_answered(row, row.send(None))


@pytest.mark.parametrize("row", rows("queues"))
def test_a_message_that_cannot_be_handled_is_parked_with_its_reason(row: Row, house: House) -> None:
    before, _ = house.census()
    assert_answered(row, row.send(house))
    house.assert_unharmed()
    parcels = before["queues"]["parcels"]
    assert house.census()[0]["queues"]["parcels"] == {**parcels, "dead": parcels["dead"] + 1}, (
        "it is parked, once, and nothing else is left"
    )


def test_the_table_has_its_size_and_each_row_its_own_name() -> None:
    ids = [row.id for door in DOORS for row in door.rows]

    assert len(ids) == len(set(ids))
    assert len(ids) >= 250


def test_every_row_says_what_where_and_what_to_do() -> None:
    silent = [row.id for door in DOORS for row in door.rows if not row.says]

    assert silent == ["wire-truncated"], "only who leaves in the middle of a frame hears nothing"


def test_the_page_is_made_from_the_table() -> None:
    assert PAGE.read_text() == page(), "run: .venv/bin/python -m tests.faults.inputs.table"
