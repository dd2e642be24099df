"""`noria send` and `noria publish`."""

import pytest

from .conftest import Noria


def test_send_prints_the_id_and_stores_the_message_where_nothing_runs(noria: Noria) -> None:
    sent = noria("send", "order", "customer=Ada", "count=3")
    assert (sent.out.count("\n"), sent.err) == (1, "")
    (queue,) = [q for q in noria("queues", "--json").json if q["name"] == "orders"]
    assert queue["ready"] == 1
    (message,) = noria("inspect", "orders", "--json").json
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
def test_fields_are_text_or_json_or_one_object(noria: Noria, words: tuple[str, ...]) -> None:
    noria("send", "order", *words)
    (message,) = noria("inspect", "orders", "--json").json
    assert message["body"] == {"customer": "7", "count": 2, "when": "2026-01-02", "tags": ["a"]}


def test_a_dash_reads_json_from_stdin(noria: Noria) -> None:
    noria("send", "order", "-", stdin='{"customer": "Ada"}')
    (message,) = noria("inspect", "orders", "--json").json
    assert message["body"]["customer"] == "Ada"


def test_json_output_has_id_and_outcome(noria: Noria) -> None:
    first = noria("send", "refresh", "house=1", 'what:=["rates"]', "--json").json
    second = noria("send", "refresh", "house=1", 'what:=["texts"]', "--json").json
    assert first["outcome"] == "stored"
    assert second == {"id": first["id"], "outcome": "merged"}


def test_an_outcome_that_is_not_stored_is_said_on_stderr(noria: Noria) -> None:
    first = noria("send", "order", "customer=Ada", "--idempotency-key", "k")
    again = noria("send", "order", "customer=Ada", "--idempotency-key", "k")
    assert again.out == first.out
    assert "duplicate" in again.err
    other = noria("send", "order", "customer=Bob", "--idempotency-key", "k", code=1)
    assert "another body" in other.err and other.out == ""


def test_a_command_without_a_queue_runs_at_once_and_prints_its_result(noria: Noria) -> None:
    assert noria("send", "add", "a=1", "b=2.5").json == 3.5
    assert noria("send", "add", "a=1", "--json").json == {"result": 1.0}


def test_delay_and_priority(noria: Noria) -> None:
    noria("send", "order", "customer=Ada", "--delay", "60")
    (message,) = noria("inspect", "orders", "--state", "delayed", "--json").json
    assert message["state"] == "delayed"


def test_waiting_for_a_result_where_nothing_runs_is_75(noria: Noria) -> None:
    ended = noria("send", "order", "customer=Ada", "--wait", "0.2", code=None)
    assert ended.code in (69, 75), ended.err
    assert ended.out == ""
    assert "noria" in ended.err


def test_publish_stores_an_event_for_its_subscribers(noria: Noria) -> None:
    published = noria("publish", "sold", "customer=Ada")
    (message,) = noria("inspect", "on.sold", "--json").json
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
        (("send", "sold", "customer=Ada"), "use noria publish"),
        (("publish", "order", "customer=Ada"), "use noria send"),
        (("send",), "Missing argument"),
        (("send", "order", "customer=Ada", "--delay", "soon"), "is no number of seconds"),
        (("sned",), "No such command"),
    ],
)
def test_wrong_input_is_2_and_says_what_would_be_right(noria: Noria, arguments: tuple[str, ...], said: str) -> None:
    ended = noria(*arguments, code=2)
    assert said in ended.err
    assert ended.out == ""
    assert "Traceback" not in ended.err


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({}, "no application is named: use -A module:app"),
        ({"NORIA_APP": "nowhere:app"}, 'no module is called "nowhere"'),
        ({"NORIA_APP": "shop:nothing"}, 'no application called "nothing"'),
        ({"NORIA_APP": "shop:app", "NORIA_BROKER": "redis://x"}, 'broker "redis://x" is not known'),
        ({"NORIA_APP": "shop:app", "NORIA_CONFIG": "nowhere.toml"}, "nowhere.toml does not exist"),
        ({"NORIA_APP": "shop:app", "NORIA_PORT": "many"}, "NORIA_PORT: port"),
    ],
)
def test_wrong_configuration_is_78_and_says_where_it_came_from(noria: Noria, env: dict[str, str], said: str) -> None:
    ended = noria("send", "order", "customer=Ada", env=env, code=78)
    assert said in ended.err
    assert ended.out == ""
    assert "Traceback" not in ended.err


def test_the_application_is_named_by_flag_environment_or_file(noria: Noria, tmp_path: object) -> None:
    assert noria("-A", "shop", "send", "add", "a=1", env={"NORIA_APP": "nowhere"}).json == 1.0
    assert noria("-A", "shop:app", "send", "add", "a=1", env={}).json == 1.0


def test_a_file_that_cannot_be_opened_is_said_without_a_traceback(noria: Noria) -> None:
    ended = noria("--broker", "sqlite:////proc/nowhere/noria.db", "send", "order", "customer=Ada", code=None)
    assert ended.code in (69, 78), ended.err
    assert "Traceback" not in ended.err and "/proc/nowhere" in ended.err
