"""`noria queues`, `inspect`, `status`, `purge` and `openapi`."""

import json
from pathlib import Path

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from .conftest import Noria, python_m_noria


def test_queues_show_every_count_as_a_table_and_as_json(noria: Noria) -> None:
    noria("send", "order", "customer=Ada")
    table = noria("queues")
    header, *rows = table.out.strip().splitlines()
    assert header.split() == ["queue", "ready", "running", "delayed", "dead", "done", "consumers"]
    assert [row.split() for row in rows if row.startswith("orders")] == [["orders", "1", "0", "0", "0", "0", "0"]]
    assert table.err == ""
    assert {q["name"] for q in noria("queues", "--json").json} == {"orders", "refresh", "on.sold"}


def test_before_the_first_message_there_are_no_queues(noria: Noria) -> None:
    ended = noria("queues", "--json", code=1)
    assert "does not exist yet; the first message makes it" in ended.err
    assert "does not exist yet" in noria("queues", code=1).err, "looking made the file"


def test_status_without_an_engine_says_so_on_stderr(noria: Noria) -> None:
    noria("send", "order", "customer=Ada")
    status = noria("status")
    assert "no engine runs" in status.err
    assert noria("status", "--json").json[0]["engine"]["pid"] in (0, None)


def test_inspect_shows_messages_by_state_and_limit(noria: Noria) -> None:
    for customer in ("Ada", "Bob", "Cleo"):
        noria("send", "order", f"customer={customer}")
    assert [m["body"]["customer"] for m in noria("inspect", "orders", "--json").json] == ["Ada", "Bob", "Cleo"]
    assert len(noria("inspect", "orders", "-n", "2", "--json").json) == 2
    assert noria("inspect", "orders", "--state", "running", "--json").json == []
    assert "Ada" in noria("inspect", "orders").out


def test_inspect_of_nothing_known_names_the_queues(noria: Noria) -> None:
    noria("send", "order", "customer=Ada")
    ended = noria("inspect", "nowhere", code=1)
    assert '"nowhere" is neither a queue (' in ended.err and "orders" in ended.err
    assert ended.out == ""


def test_purge_asks_for_the_name_and_deletes_what_waits(noria: Noria) -> None:
    noria("send", "order", "customer=Ada")
    noria("send", "order", "customer=Bob", "--delay", "60")
    refused = noria("purge", "orders", stdin="order\n", code=1)
    assert "2 messages of orders" in refused.err
    assert refused.out == ""
    assert len(noria("inspect", "orders", "--json").json) == 2
    assert noria("purge", "orders", stdin="orders\n").out.strip() == "2"
    assert noria("purge", "orders", "--force").out == "0\n"


def test_purge_of_an_unknown_queue_is_an_error(noria: Noria) -> None:
    noria("send", "order", "customer=Ada")
    ended = noria("purge", "nowhere", "--force", code=1)
    assert "nowhere" in ended.err


def test_purge_can_delete_an_empty_queue(noria: Noria) -> None:
    noria("send", "order", "customer=Ada")
    noria("purge", "orders", "--force", "--delete")
    assert "orders" not in {q["name"] for q in noria("queues", "--json").json}


def test_openapi_prints_the_document(noria: Noria) -> None:
    document = noria("openapi").json
    OpenAPIV31SpecValidator(document).validate()
    assert "/commands/order" in document["paths"]


@pytest.mark.parametrize(
    "verb",
    [
        "queues",
        "status",
        "inspect",
        "purge",
        "dead",
        "send",
        "publish",
        "run",
        "worker",
        "gateway",
        "scheduler",
        "engine",
        "doctor",
        "openapi",
    ],
)
def test_every_verb_has_help(noria: Noria, verb: str) -> None:
    ended = noria(verb, "--help")
    assert ended.out.startswith(f"Usage: noria {verb}")


def test_it_runs_as_a_module_and_passes_its_exit_code_on(tmp_path: Path) -> None:
    assert "0.1.0" in python_m_noria(tmp_path, "--version").out
    ended = python_m_noria(tmp_path, "send", "order")
    assert (ended.code, ended.out) == (78, "")
    assert ended.err.startswith("noria: no application is named")


def test_version_and_help(noria: Noria) -> None:
    assert "0.1.0" in noria("--version").out
    assert "Exit codes: 0 done, 1 failed" in " ".join(noria("--help").out.split())


def test_control_characters_in_a_body_do_not_reach_the_terminal(noria: Noria) -> None:
    noria("send", "order", json.dumps({"customer": "\x1b[2Jevil"}))
    assert "\x1b" not in noria("inspect", "orders").out
    assert noria("inspect", "orders", "--json").json[0]["body"]["customer"] == "\x1b[2Jevil"
