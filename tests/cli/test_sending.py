"""`chappe send` and `chappe publish`."""

import pytest

from .conftest import Chappe


def test_send_prints_the_id_and_stores_the_message_where_nothing_runs(chappe: Chappe) -> None:
    sent = chappe("send", "order", "customer=Ada", "count=3")
    assert (sent.out.count("\n"), sent.err) == (1, "")
    (queue,) = [q for q in chappe("queues", "--json").json if q["name"] == "orders"]
    assert queue["ready"] == 1
    (message,) = chappe("inspect", "orders", "--json").json
    assert message["id"] == sent.out.strip()
    assert message["body"] == {"customer": "Ada", "count": 3, "when": None, "tags": []}


@pytest.mark.parametrize(
    "words",
    [
        ("customer=7", "count=2", "when=2026-01-02", 'tags:=["a"]'),
        ('{"customer": "7", "count": 2, "when": "2026-01-02", "tags": ["a"]}',),
        ('customer:="7"', "count:=2", 'when:="2026-01-02"', 'tags:=["a"]'),
    ],
)
def test_fields_are_text_or_json_or_one_object(chappe: Chappe, words: tuple[str, ...]) -> None:
    chappe("send", "order", *words)
    (message,) = chappe("inspect", "orders", "--json").json
    assert message["body"] == {"customer": "7", "count": 2, "when": "2026-01-02", "tags": ["a"]}


def test_a_dash_reads_json_from_stdin(chappe: Chappe) -> None:
    chappe("send", "order", "-", stdin='{"customer": "Ada"}')
    (message,) = chappe("inspect", "orders", "--json").json
    assert message["body"]["customer"] == "Ada"


def test_json_output_has_id_and_outcome(chappe: Chappe) -> None:
    first = chappe("send", "refresh", "house=1", 'what:=["rates"]', "--json").json
    second = chappe("send", "refresh", "house=1", 'what:=["texts"]', "--json").json
    assert first["outcome"] == "stored"
    assert second == {"id": first["id"], "outcome": "merged"}


def test_an_outcome_that_is_not_stored_is_said_on_stderr(chappe: Chappe) -> None:
    first = chappe("send", "order", "customer=Ada", "--idempotency-key", "k")
    again = chappe("send", "order", "customer=Ada", "--idempotency-key", "k")
    assert again.out == first.out
    assert "duplicate" in again.err
    other = chappe("send", "order", "customer=Bob", "--idempotency-key", "k", code=1)
    assert "another body" in other.err and other.out == ""


def test_a_command_without_a_queue_runs_at_once_and_prints_its_result(chappe: Chappe) -> None:
    assert chappe("send", "add", "a=1", "b=2.5").json == 3.5
    assert chappe("send", "add", "a=1", "--json").json == {"result": 1.0}


def test_delay_and_priority(chappe: Chappe) -> None:
    chappe("send", "order", "customer=Ada", "--delay", "60")
    (message,) = chappe("inspect", "orders", "--state", "delayed", "--json").json
    assert message["state"] == "delayed"


def test_waiting_for_a_result_where_nothing_runs_is_75(chappe: Chappe) -> None:
    ended = chappe("send", "order", "customer=Ada", "--wait", "0.2", code=None)
    assert ended.code in (69, 75), ended.err
    assert ended.out == ""
    assert "chappe" in ended.err


def test_publish_stores_an_event_for_its_subscribers(chappe: Chappe) -> None:
    published = chappe("publish", "sold", "customer=Ada")
    (message,) = chappe("inspect", "shop.on.sold", "--json").json
    assert (message["id"], message["type"]) == (published.out.strip(), "sold")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("send", "ordr", "customer=Ada"), 'did you mean "order"'),
        (("send", "order"), "$.customer: Field required"),
        (("send", "order", "customer=Ada", "count=many", "colour=red"), "$.colour: Unknown field"),
        (("send", "order", "customer=Ada", "count=many"), "$.count: Expected `int`"),
        (("send", "order", "customer:=Ada"), "$.customer: not JSON"),
        (("send", "order", "Ada"), '"Ada" is not understood; write field=text, field:=json'),
        (("send", "order", "{"), "$: "),
        (("send", "sold", "customer=Ada"), "use chappe publish"),
        (("publish", "order", "customer=Ada"), "use chappe send"),
        (("send",), "Missing argument"),
        (("send", "order", "customer=Ada", "--delay", "soon"), "is no number of seconds"),
        (("sned",), "No such command"),
    ],
)
def test_wrong_input_is_2_and_says_what_would_be_right(chappe: Chappe, arguments: tuple[str, ...], said: str) -> None:
    ended = chappe(*arguments, code=2)
    assert said in ended.err
    assert ended.out == ""
    assert "Traceback" not in ended.err


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({}, "no application is named: use -A module:app"),
        ({"CHAPPE_APP": "nowhere:app"}, 'no module is called "nowhere"'),
        ({"CHAPPE_APP": "shop:nothing"}, 'no application called "nothing"'),
        ({"CHAPPE_APP": "shop:app", "CHAPPE_BROKER": "redis://x"}, 'broker "redis://x" is not known'),
        ({"CHAPPE_APP": "shop:app", "CHAPPE_CONFIG": "nowhere.toml"}, "nowhere.toml does not exist"),
        ({"CHAPPE_APP": "shop:app", "CHAPPE_PORT": "many"}, "CHAPPE_PORT: port"),
    ],
)
def test_wrong_configuration_is_78_and_says_where_it_came_from(chappe: Chappe, env: dict[str, str], said: str) -> None:
    ended = chappe("send", "order", "customer=Ada", env=env, code=78)
    assert said in ended.err
    assert ended.out == ""
    assert "Traceback" not in ended.err


def test_the_application_is_named_by_flag_environment_or_file(chappe: Chappe, tmp_path: object) -> None:
    assert chappe("-A", "shop", "send", "add", "a=1", env={"CHAPPE_APP": "nowhere"}).json == 1.0
    assert chappe("-A", "shop:app", "send", "add", "a=1", env={}).json == 1.0


def test_a_file_that_cannot_be_opened_is_said_without_a_traceback(chappe: Chappe) -> None:
    ended = chappe("--broker", "sqlite:////proc/nowhere/chappe.db", "send", "order", "customer=Ada", code=None)
    assert ended.code in (69, 78), ended.err
    assert "Traceback" not in ended.err and "/proc/nowhere" in ended.err
