"""What a terminal is shown: nothing that commands it, reorders it or hides in it, and no secret."""

import json
import sys
from pathlib import Path

import pytest

from chappe.cli.logs import ForPeople, ForPrograms
from chappe.cli.terminal import escaped_json

from ..test_redaction import PASSWORD, pieces
from .conftest import Chappe
from .test_logs import record

HARMFUL = "".join(
    chr(code)
    for code in (
        *range(0x09), 0x0B, 0x0C, *range(0x0E, 0x20), *range(0x7F, 0xA0), 0xAD, 0x061C, 0x180E, *range(0x200B, 0x2010),
        *range(0x2028, 0x202F), *range(0x2060, 0x2070), 0xFEFF, 0xFFF9, 0xE0001, 0xE0041, 0x1D173,
    )
)  # fmt: skip


def raw(text: str) -> list[str]:
    return [hex(ord(c)) for c in text if c in HARMFUL]


def test_json_means_the_same_and_holds_nothing_raw() -> None:
    value = {HARMFUL: ["plain", "ä €", HARMFUL, "\n\t\\", None, 1.5]}
    for indent in (0, 2):
        text = escaped_json(value, indent=indent)
        assert raw(text) == []
        assert json.loads(text) == value
    assert '"ä €"' in text


@pytest.mark.parametrize("formatter", [ForPeople("worker\x1b", colours=False), ForPrograms("worker\x1b")])
def test_log_lines_hold_nothing_raw_in_messages_tracebacks_and_names(formatter: ForPeople) -> None:
    made = record("%s", HARMFUL)
    try:
        raise ValueError(HARMFUL)
    except ValueError:
        made.exc_info = sys.exc_info()
    made.stack_info = made.__dict__["shop"] = HARMFUL
    assert raw(formatter.format(made)) == []


def test_further_lines_of_a_message_cannot_be_taken_for_other_lines() -> None:
    forged = ForPeople("worker", colours=False).format(record("x\n22:13:20.250 critical all is lost  [engine 1]"))
    assert [line[:4] for line in forged.splitlines()][1:] == ["    "]


def test_dead_letters_queues_and_errors_hold_nothing_raw(chappe: Chappe, worked: object, tmp_path: Path) -> None:
    body = "\x1b]0;x\x07 \x9b2J \x7f \u202e evil \u2028 \u200b"
    assert callable(worked)
    (tmp_path / "shop.py").write_text(
        (tmp_path / "shop.py").read_text().replace('raise Reject("we do not sell to Eve")', 'raise Reject("no " + command.customer)')
        .replace('== "Eve"', '!= "Ada"')
    )  # fmt: skip
    chappe("send", "order", f"customer={body}")
    worked()
    shown = [
        chappe("dead", "list"), chappe("dead", "list", "--json"), chappe("dead", "show", "1"), chappe("inspect", body, code=1),
        chappe("send", body, code=2), chappe(body, code=2), chappe("purge", body, code=1), chappe("-A", body, "openapi", code=78),
    ]  # fmt: skip
    assert [raw(ended.out + ended.err) for ended in shown] == [[]] * len(shown)
    assert json.loads(shown[2].out)[0]["body"]["customer"] == body


@pytest.mark.parametrize(
    "arguments",
    [
        ("--broker", "amqp:/u:{}@h/", "queues"),
        ("--broker", "amqp://u:{}@h:port/", "doctor"),
        ("--broker=amqp://u:{}@[::1/", "status"),
        ("--broker", "sqlite://u:{}@h", "status"),
        ("--config", "amqp://u:{}@h", "queues"),
        ("-A", "amqp://u:{}@h", "openapi"),
        ("amqp://u:{}@h",),
        ("queues", "amqp://u:{}@h"),
        ("move", "--to", "amqp://u:{}@h:port/"),
        ("move", "--to", "amqp://u:{}@127.0.0.1:1/", "--to-store", "postgresql://u:{}@127.0.0.1:{}/d"),
        ("move", "--to", "amqp://127.0.0.1:1/", "--to-store", "postgresql://u:%zz{}@127.0.0.1/d"),
        ("move", "--to", "amqp://127.0.0.1:1/?heartbeat={}", "--to-store", "postgresql://u:{}@[::1/d"),
        ("move", "--to", "amqp://127.0.0.1:1/", "--to-store", "postgresql://u@127.0.0.1:1/d?passwrd={}"),
    ],
    ids=lambda arguments: " ".join(arguments),
)
def test_no_verb_prints_a_password_of_a_url_that_it_cannot_use(chappe: Chappe, arguments: tuple[str, ...]) -> None:
    chappe("send", "order", "customer=Ada")
    ended = chappe(*(argument.format(*[PASSWORD] * 2) for argument in arguments), code=None, env={"CHAPPE_DEADLINE": "0.5"})
    assert ended.code != 0
    assert pieces(ended.out + ended.err) == [], ended.err
    assert "Traceback" not in ended.err, ended.err
