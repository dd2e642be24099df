"""All rows, by the door through which they come, and the page of the documentation that shows them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from . import commandline, configuration, declarations, files, http, queues, wire
from .row import Row


class Door(NamedTuple):
    """One way into Chappe: what its rows have in common, and the word for their answers."""

    name: str
    title: str
    words: str
    answer: str
    rows: list[Row]


DOORS = [
    Door("http", "Requests", "The answer is a problem document (RFC 9457). Nothing is stored, and the gateway and the engine go on.", "status", http.ROWS),
    Door("command line", "Words on the command line", "The sentence is on stderr. Nothing is stored, and no file is made.", "exit code", commandline.ROWS),
    Door("configuration", "Settings", "The sentence names the source. No process starts, and no file is made.", "exit code", configuration.ROWS),
    Door("declarations", "Declarations and messages in Python", "The error is raised where the line stands. Nothing is stored.", "error", declarations.ROWS),
    Door("queues", "Messages in a queue",
         "The message is parked as a dead letter, and its neighbours are handled. `chappe dead show` has the error.", "reason", queues.ROWS),
    Door("wire", "Frames on the engine's socket",
         "Only this user's processes can connect. What the engine says when it hangs up is in its log. Nothing is stored.", "answer", wire.ROWS),
    Door("files", "Files", "The files are left as they were.", "exit code", files.ROWS),
]  # fmt: skip
_HEAD = """# Bad input

What Chappe answers to input that is wrong, door by door; `…` stands for anything.
This page is made from the table in `tests/faults/inputs`, and each of its rows is a test: `tests/faults/test_bad_input.py`.
"""


def page() -> str:
    """Write docs/reference/bad-input.md."""
    return "\n".join([_HEAD, *(line for door in DOORS for line in _section(door))])


def _section(door: Door) -> Iterator[str]:
    yield f"## {door.title}\n"
    yield f"{door.words}\n"
    yield f"| what is wrong | what is sent | {door.answer} | what it says |"
    yield "| --- | --- | --- | --- |"
    for row in door.rows:
        then = f"; {row.then}" if row.then else ""
        said = _code(row.says) if row.says else "nothing"
        sent = _code(row.sent) if "\n" in row.sent or "`" not in row.sent and door.name == "declarations" else _cell(row.sent)
        yield f"| {_cell(row.wrong)} | {sent} | {_answer(row.answer)} | {said}{_cell(then)} |"
    yield ""


def _answer(answer: str) -> str:
    return answer if answer.isdigit() or " " in answer or answer.islower() else f"`{answer}`"


def _code(text: str) -> str:
    """Write a text as code in a cell; lines become one, and a backtick needs two around it."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    line = " ⏎ ".join(lines).replace("|", "\\|")
    return f"`` {line} ``" if "`" in line else f"`{line}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    from pathlib import Path

    target = Path(__file__).resolve().parents[3] / "docs" / "reference" / "bad-input.md"
    target.write_text(page())
    print(target)
