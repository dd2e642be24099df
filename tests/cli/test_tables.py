"""Tables: one line a row in a pipe, and ids whole on a terminal however narrow it is."""

import pytest

from chappe.cli.tables import show

ID = "01a227a8-2ee3-72da-87e0-a6e35a543a3b"
ROWS = [
    {"id": ID, "queue": "invoices.of.a.long.name", "attempt": 1, "body": "first\nsecond " + "x" * 500},
    {"id": ID, "queue": "q", "attempt": 12, "body": None},
]


def test_in_a_pipe_each_row_is_one_line_and_nothing_of_it_is_cut(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    show(ROWS, ("id", "queue", "attempt", "body"), as_json=False)
    head, first, second = capsys.readouterr().out.splitlines()
    assert head.split() == ["id", "queue", "attempt", "body"]
    assert first.split()[:3] == [ID, "invoices.of.a.long.name", "1"]
    assert first.endswith("first\\nsecond " + "x" * 500)
    assert second.split() == [ID, "q", "12"]
    assert first.index("1 ", 60) == second.index("12") + 1, "numbers stand below each other"


def test_a_table_without_rows_is_its_head(capsys: pytest.CaptureFixture[str]) -> None:
    show([], ("queue", "ready"), as_json=False)
    assert capsys.readouterr().out == "queue  ready\n"


def test_on_a_narrow_terminal_an_id_stays_whole(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "70")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    show(ROWS, ("id", "attempt", "body"), as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert sum(ID in line for line in lines) == 2
    assert len(lines) > 3, "what is longer is broken over lines there"
