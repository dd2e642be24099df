"""Log lines: JSON that every program reads, text that harms no terminal."""

import json
import logging
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from chappe import output
from chappe.cli import logs
from chappe.cli.logs import ForPeople, ForPrograms, LogHandler

from ..waiting import until
from .conftest import environment


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


def test_fields_of_extra_and_the_stack_are_in_the_object_and_cannot_take_the_place_of_ours() -> None:
    made = record("paid")
    made.__dict__.update(order=7, customer={"name": "Ada"}, event="forged", thing=object)
    made.stack_info = "Stack (most recent call last):"
    line = json.loads(ForPrograms("worker").format(made))
    assert (line["order"], line["event"], line["stack"]) == ("7", "paid", "Stack (most recent call last):"), (
        "repr, for one of them is no JSON"
    )
    assert "thing" in line
    del made.__dict__["thing"]
    assert json.loads(ForPrograms("worker").format(made))["customer"] == {"name": "Ada"}


SILENCED = """
import logging, logging.config, os, sys, pathlib
from chappe.cli import logs
from chappe.settings import Settings

def dict_config(**more):
    console = {"class": "logging.StreamHandler"}
    logging.config.dictConfig({"version": 1, "handlers": {"c": console}, "root": {"level": "ERROR", "handlers": ["c"]}, **more})

def remove_handlers():
    for handler in list(logging.root.handlers):
        logging.root.removeHandler(handler)

def file_config():
    pathlib.Path("logging.ini").write_text(
        "[loggers]\\nkeys=root\\n[handlers]\\nkeys=c\\n[formatters]\\nkeys=\\n"
        "[logger_root]\\nlevel=CRITICAL\\nhandlers=c\\n[handler_c]\\nclass=StreamHandler\\nargs=(sys.stdout,)\\n"
    )
    logging.config.fileConfig("logging.ini")

def file_handler():
    logging.basicConfig(force=True, filename="all.log", format="%(message)s")

ways = {
    "dictConfig": dict_config,
    "dictConfig of another logger": lambda: dict_config(loggers={"shop": {"level": "DEBUG"}}),
    "fileConfig": file_config,
    "basicConfig": lambda: logging.basicConfig(force=True, level=logging.CRITICAL),
    "disable": lambda: logging.disable(logging.CRITICAL),
    "root level": lambda: logging.root.setLevel(100),
    "handlers": remove_handlers,
    "shutdown": logging.shutdown,
    "disabled": lambda: setattr(logging.getLogger("chappe.worker"), "disabled", True),
    "stderr by its path": lambda: logging.basicConfig(force=True, filename="/dev/stderr"),
    "stderr by its path, opened late": lambda: logging.basicConfig(force=True, handlers=[logging.FileHandler("/dev/stderr", delay=True)]),
    "copy of stderr": lambda: logging.basicConfig(force=True, stream=os.fdopen(os.dup(2), "w")),
    "record factory": lambda: logging.setLogRecordFactory(lambda *_, **__: 1 / 0),
    "file handler": file_handler,
}
ours = [logging.getLogger(name) for name in ("chappe.worker", "uvicorn.error", "asyncio")]
for name, way in ways.items():
    logs.set_up(Settings(log_format="console"), "worker")
    late = logging.getLogger("chappe.late." + name)  # of a module that is imported after the start
    way()
    logs.keep_loggers()
    for logger in (*ours, late):
        logger.warning("%s: %s tells it", name, logger.name)
    ours[0].debug("nobody asked for this")
    logging.setLogRecordFactory(logging.LogRecord)
logging.disable(logging.NOTSET)
logging.warning("as the application says")
"""


def test_our_loggers_survive_what_an_application_does_to_logging_and_tell_everything_once(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SILENCED],
        cwd=tmp_path,
        env=environment(NO_COLOR="1"),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    told = [line[13:].split("  [")[0] for line in done.stderr.splitlines()]
    ways = ["dictConfig", "dictConfig of another logger", "fileConfig", "basicConfig", "disable", "root level", "handlers", "shutdown"]
    names = ["chappe.worker", "uvicorn.error", "asyncio", "chappe.late."]
    ways += ["disabled", "stderr by its path", "stderr by its path, opened late", "copy of stderr", "record factory", "file handler"]
    for way in ways:
        for name in names:
            shown = f"{way}: {name}{way if name.endswith('.') else ''} tells it"
            assert told.count(f"warning  {shown}") == 1, f"{shown}\n{done.stderr}"
    assert len(told) == 4 * len(ways) and done.stdout == ""
    kept = (tmp_path / "all.log").read_text().splitlines()
    assert "file handler: chappe.worker tells it" in kept and "as the application says" in kept, "and so is the file of the application"


def test_a_handler_of_the_application_keeps_nobody_waiting_and_is_told_what_it_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(logging.Handler):
        def __init__(self) -> None:
            super().__init__()
            self.free = threading.Event()
            self.said: list[str] = []

        def emit(self, record: logging.LogRecord) -> None:
            self.free.wait()
            self.said.append(record.getMessage())

    slow, passing = Slow(), logs.PassOn()
    monkeypatch.setattr(logging.root, "handlers", [slow])
    for number in range(1500):
        passing.handle(record("%d", number))
    slow.free.set()
    dropped = "log records dropped: a handler that the application gave the root logger kept others waiting"
    until(lambda: len(slow.said) > 1000 and any(dropped in line for line in slow.said), "all that was not dropped, and the count")
    (told,) = [line for line in slow.said if dropped in line]
    slow.said.remove(told)
    assert slow.said == [str(number) for number in range(len(slow.said))]
    assert told == f"{1500 - len(slow.said)} {dropped}"


def test_a_line_that_cannot_be_written_as_text_says_so(capfd: pytest.CaptureFixture[str]) -> None:
    class Broken:
        def __repr__(self) -> str:
            raise RuntimeError("no text")

    handler = LogHandler()
    handler.setFormatter(ForPeople("worker", colours=False))
    handler.handle(record("one is %r", Broken()))
    handler.handle(record("%d", "word"))
    output.stderr.flush(30)
    said = capfd.readouterr().err
    assert "a log line cannot be written (RuntimeError): one is %r" in said
    assert "a log line cannot be written (TypeError): %d" in said
