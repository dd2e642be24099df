"""Log lines: JSON that every program reads, text that harms no terminal."""

import json
import logging
import sys

from chappe.cli.logs import ForPeople, ForPrograms


def record(text: str, *values: object) -> logging.LogRecord:
    made = logging.LogRecord("chappe.worker", logging.WARNING, __file__, 1, text, values, None)
    made.created = 1_700_000_000.25
    return made


def test_a_line_for_programs_is_one_json_object() -> None:
    line = json.loads(ForPrograms("worker push").format(record('said "%s"', "two\nlines\x1b[2J")))
    assert line["event"] == 'said "two\nlines\x1b[2J"'
    assert (line["level"], line["logger"], line["role"]) == ("warning", "chappe.worker", "worker push")
    assert line["timestamp"] == "2023-11-14T22:13:20.250000Z"


def test_an_exception_is_part_of_the_object() -> None:
    made = record("failed")
    try:
        raise ValueError("why")
    except ValueError:
        made.exc_info = sys.exc_info()
    line = ForPrograms("worker").format(made)
    assert "\n" not in line
    assert json.loads(line)["exception"].endswith("ValueError: why")
    assert ForPeople("worker", colours=False).format(made).endswith("ValueError: why")


def test_a_line_for_people_has_the_time_and_no_control_characters() -> None:
    line = ForPeople("engine", colours=False).format(record("stored %d\x1b[2J", 3))
    assert line.startswith("22:13:20.250 warning  stored 3\\x1b[2J  [engine ")
    assert "\x1b[33mwarning" in ForPeople("engine", colours=True).format(record("x"))
