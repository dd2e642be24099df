"""`chappe queues`, `inspect`, `status`, `purge` and `openapi`."""

import json
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from openapi_spec_validator import OpenAPIV31SpecValidator

from chappe import App, Settings
from chappe.cli import looking
from chappe.engines.contract.fleet import ClientStatus, EngineStatus, Overview

from .conftest import Chappe, python_m_chappe


def test_queues_show_every_count_as_a_table_and_as_json(chappe: Chappe) -> None:
    chappe("send", "order", "customer=Ada")
    table = chappe("queues")
    header, *rows = table.out.strip().splitlines()
    assert header.split() == ["queue", "ready", "running", "delayed", "dead", "done", "consumers", "oldest", "paused"]
    assert [row.split() for row in rows if row.startswith("orders")][0][:7] == ["orders", "1", "0", "0", "0", "0", "0"]
    assert table.err == ""
    assert {q["name"] for q in chappe("queues", "--json").json} == {"orders", "refresh", "shop.on.sold"}


def test_before_the_first_message_there_are_no_queues(chappe: Chappe) -> None:
    ended = chappe("queues", "--json", code=1)
    assert "does not exist yet; the first message makes it" in ended.err
    assert "does not exist yet" in chappe("queues", code=1).err, "looking made the file"


def test_status_without_an_engine_says_so_on_stderr(chappe: Chappe) -> None:
    chappe("send", "order", "customer=Ada")
    status = chappe("status")
    assert "no engine runs" in status.err
    assert chappe("status", "--json").json[0]["engine"].get("pid") is None


@pytest.mark.parametrize("queues", [None, 7, "orders", [1, None], {"a": 1}])
def test_status_shows_what_a_process_says_of_itself_of_whatever_type_it_is(queues: object, monkeypatch: pytest.MonkeyPatch) -> None:
    client = ClientStatus("w", "worker", 0, {"pool": "x", "pid": "?", "queues": queues})
    monkeypatch.setattr(looking, "ask", lambda *_: Overview(EngineStatus("p"), [], [], [client]))
    ended = CliRunner().invoke(looking.status, [])
    assert (ended.exit_code, ended.exception) == (0, None)
    assert "worker  x     ?" in ended.stdout


def test_inspect_shows_messages_by_state_and_limit(chappe: Chappe) -> None:
    for customer in ("Ada", "Bob", "Cleo"):
        chappe("send", "order", f"customer={customer}")
    assert [m["body"]["customer"] for m in chappe("inspect", "orders", "--json").json] == ["Ada", "Bob", "Cleo"]
    assert len(chappe("inspect", "orders", "-n", "2", "--json").json) == 2
    assert chappe("inspect", "orders", "--state", "running", "--json").json == []
    assert "Ada" in chappe("inspect", "orders").out


def test_inspect_of_nothing_known_names_the_queues(chappe: Chappe) -> None:
    chappe("send", "order", "customer=Ada")
    ended = chappe("inspect", "nowhere", code=1)
    assert '"nowhere" is neither a queue (' in ended.err and "orders" in ended.err
    assert ended.out == ""


def test_purge_asks_for_the_name_and_deletes_what_waits(chappe: Chappe) -> None:
    chappe("send", "order", "customer=Ada")
    chappe("send", "order", "customer=Bob", "--delay", "60")
    refused = chappe("purge", "orders", stdin="order\n", code=1)
    assert "2 messages of orders" in refused.err
    assert refused.out == ""
    assert len(chappe("inspect", "orders", "--json").json) == 2
    assert chappe("purge", "orders", stdin="orders\n").out.strip() == "2"
    assert chappe("purge", "orders", "--force").out == "0\n"


def test_purge_of_an_unknown_queue_is_an_error(chappe: Chappe) -> None:
    chappe("send", "order", "customer=Ada")
    ended = chappe("purge", "nowhere", "--force", code=1)
    assert "nowhere" in ended.err


def test_purge_can_delete_an_empty_queue(chappe: Chappe) -> None:
    chappe("send", "order", "customer=Ada")
    chappe("purge", "orders", "--force", "--delete")
    assert "orders" not in {q["name"] for q in chappe("queues", "--json").json}


def test_openapi_prints_the_document(chappe: Chappe) -> None:
    document = chappe("openapi").json
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
def test_every_verb_has_help(chappe: Chappe, verb: str) -> None:
    ended = chappe(verb, "--help")
    assert ended.out.startswith(f"Usage: chappe {verb}")


def test_it_runs_as_a_module_and_passes_its_exit_code_on(tmp_path: Path) -> None:
    assert "0.1.0" in python_m_chappe(tmp_path, "--version").out
    ended = python_m_chappe(tmp_path, "send", "order")
    assert (ended.code, ended.out) == (78, "")
    assert ended.err.startswith("chappe: no application is named")


def test_version_and_help(chappe: Chappe) -> None:
    assert "0.1.0" in chappe("--version").out
    assert "Exit codes: 0 done, 1 failed" in " ".join(chappe("--help").out.split())


def test_control_characters_in_a_body_do_not_reach_the_terminal(chappe: Chappe) -> None:
    chappe("send", "order", json.dumps({"customer": "\x1b[2Jevil"}))
    assert "\x1b" not in chappe("inspect", "orders").out
    assert chappe("inspect", "orders", "--json").json[0]["body"]["customer"] == "\x1b[2Jevil"


def test_schedules_are_shown_with_their_next_firing_and_paused_by_name_and_by_short_name(chappe: Chappe, tmp_path: Path) -> None:
    (tmp_path / "clock.py").write_text(
        "from chappe import App, Command, cron, every\napp = App('clock')\nclass Tick(Command): pass\n"
        "app.schedule(every(3600), Tick())\napp.schedule(cron('0 4 1 1 *', 'Europe/Paris'), Tick(), name='yearly')\n"
    )
    schedules = chappe("-A", "clock:app", "schedules", "--json").json
    assert [(one["name"], one["message"], one["paused"]) for one in schedules] == [
        ("clock:tick:every(3600)", "tick", False), ("clock:yearly", "tick", False),
    ]  # fmt: skip
    assert 0 < schedules[0]["next"] - time.time() <= 3600
    chappe("-A", "clock:app", "pause", "--schedule", "yearly", "--schedule", "clock:tick:every(3600)")
    chappe("-A", "clock:app", "resume", "--schedule", "tick:every(3600)")
    table = chappe("-A", "clock:app", "schedules").out
    assert [line.split()[-1] == "paused" for line in table.splitlines()[1:]] == [False, True]
    wrong = chappe("-A", "clock:app", "pause", "--schedule", "monthly", code=1)
    assert 'no schedule is called "monthly"; there are: clock:tick:every(3600), clock:yearly' in wrong.err
    assert [row["what"] for row in chappe("audit", "--json").json] == [
        "schedule:clock:yearly", "schedule:clock:tick:every(3600)", "schedule:clock:tick:every(3600)",
    ]  # fmt: skip


def test_budgets_show_what_is_left_and_what_was_learned_since_when(chappe: Chappe, tmp_path: Path) -> None:
    app = App("shop", settings=Settings(broker=f"sqlite:///{tmp_path}/chappe.db"))

    async def call() -> None:
        store = (await app.connection()).store
        await store.take("mastodon", 2.0, 1)
        await store.take("trello:ada", None, 1)
        for _ in range(6):
            await store.take("pocket:ada", None, 1)
        await store.throttle("pocket:ada", time.time() + 800)

    app.wait_for(call())
    app.close()
    header, *rows = chappe("budgets").out.splitlines()
    assert header.split() == ["budget", "every", "next", "limit", "left", "learned"]
    assert [" ".join(row.split())[:14] for row in rows] == ["mastodon 2.0 s", "pocket:ada 3 m", "trello:ada now"]
    assert "5 in 15 m" in rows[1]
    assert rows[2].endswith("nothing yet")
    assert [(one["name"], one["limit"], one["left"]) for one in chappe("budgets", "--json").json] == [
        ("mastodon", None, None), ("pocket:ada", 5, 0), ("trello:ada", None, None),
    ]  # fmt: skip


def test_why_a_message_does_not_run_is_said_for_people_and_programs(chappe: Chappe) -> None:
    sent = chappe("send", "order", "customer=Ada", "--json").json
    message = (sent[0] if isinstance(sent, list) else sent)["id"]
    chappe("pause", "orders")
    assert [row["reason"] for row in chappe("why", message, "--json").json] == ["paused", "no_worker"]
    assert "chappe resume orders" in chappe("why", message).out
    assert "nothing" in chappe("why", "nothing", code=1).err
