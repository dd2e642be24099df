"""What Sentry hears of handlers, by its own SDK with a transport that keeps what it is given (row D22)."""

import asyncio
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import pytest
import sentry_sdk
from sentry_sdk.envelope import Envelope
from sentry_sdk.transport import Transport

from chappe import App, Command, Context, Reject, Retry, RetryLater, Snooze
from chappe.integrations.sentry import sentry
from chappe.testing import Trial, testing

KEPT = "a-password-of-the-settings"


class Keeping(Transport):
    """Keeps events, as they would be sent."""

    def __init__(self, options: dict[str, Any] | None = None) -> None:
        super().__init__(options)
        self.events: list[dict[str, Any]] = []

    def capture_envelope(self, envelope: Envelope) -> None:
        for item in envelope.items:
            if item.type == "event":
                self.events.append(json.loads(item.get_bytes()))


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    monkeypatch.setenv("SENTRY_DSN", "https://key@sentry.invalid/1")
    transport = Keeping()
    sentry_sdk.init(transport=transport, auto_enabling_integrations=False)
    yield transport.events
    sentry_sdk.get_client().close()
    sentry_sdk.get_global_scope().clear()
    sentry_sdk.get_global_scope().set_client(None)


class Pay(Command, queue="payments", retry=Retry(3, delay=0.0, jitter=0.0), key="{account}", fair="{tenant}"):
    account: int = 7
    tenant: str = "north"
    card: str = "4000-0000"
    password: str = "sesame"
    how: str = "fail"


class PayNow(Command, queue="payments", retry=1):
    how: Literal["fail", "secret"] = "fail"


class Slow(Command, queue="slow", timeout=0.01, retry=1):
    pass


class Inline(Command, inline=True):
    pass


class Several(Command, queue="several", retry=1):
    number: int


class Beside(Command, queue="beside", retry=1):
    name: str


def fail(how: str, context: Context) -> None:
    match how:
        case "fail":
            raise ValueError("no money")
        case "once":
            if context.attempt == 1:
                raise ValueError("no money yet")
        case "reject":
            raise Reject("not for us")
        case "later":
            raise RetryLater("in vain")
        case "secret":
            raise ConnectionError(f"postgresql://shop:{KEPT}@db/shop does not answer")
        case _:
            if context.note is None:
                raise Snooze(0.0, note="again")


@contextmanager
def bank(**options: Any) -> Iterator[Trial]:
    app = App("bank")
    app.use(sentry(**options))
    met = asyncio.Event()
    waiting: list[str] = []

    @app.handles(Pay)
    async def pay(command: Pay, context: Context) -> None:
        fail(command.how, context)

    @app.handles(PayNow)
    def pay_now(command: PayNow, context: Context) -> None:
        fail(command.how, context)

    @app.handles(Slow)
    async def slow(command: Slow) -> None:
        await asyncio.sleep(30)

    @app.handles(Inline)
    async def inline(command: Inline, context: Context) -> None:
        fail("fail", context)

    @app.handles(Several, batch=3)
    async def several(commands: list[Several]) -> None:
        raise ValueError("none of them")

    @app.handles(Beside)
    async def beside(command: Beside) -> None:
        sentry_sdk.set_tag("mine", command.name)
        waiting.append(command.name)
        if len(waiting) == 2:
            met.set()
        await met.wait()  # both have set their tag
        raise ValueError(command.name)

    with testing(app, concurrency=3) as t:
        yield t


def test_a_failure_is_reported_once_with_its_command(sent: list[dict[str, Any]]) -> None:
    with bank() as t:
        receipt = t.send(Pay())
        t.drain(to_the_end=True)
        assert len(t.dead) == 1
    (event,) = sent
    assert event["contexts"]["command"] == {
        "id": receipt.id, "type": "pay", "queue": "payments", "attempt": 3, "attempts": 3, "tenant": "north", "key": "7",
    }  # fmt: skip
    assert event["tags"] == {"command.type": "pay", "command.queue": "payments", "command.tenant": "north"}
    assert event["transaction"] == "pay"
    (value,) = event["exception"]["values"]
    assert (value["type"], value["value"]) == ("ValueError", "no money")
    assert value["stacktrace"]["frames"][-1]["function"] == "fail"


def test_an_attempt_that_is_tried_again_is_reported_only_when_asked_for(sent: list[dict[str, Any]]) -> None:
    with bank() as t:
        t.send(Pay(how="once"))
        t.drain(to_the_end=True)
    assert sent == []
    with bank(retries=True) as t:
        t.send(Pay(how="once"))
        t.drain(to_the_end=True)
        t.send(Pay())
        t.drain(to_the_end=True)
    assert [event["contexts"]["command"]["attempt"] for event in sent] == [1, 1, 2, 3]


@pytest.mark.parametrize(("how", "told"), [("reject", ["not for us"]), ("later", ["in vain"]), ("snooze", [])])
def test_what_ends_a_message_is_reported_and_a_snooze_is_not(sent: list[dict[str, Any]], how: str, told: list[str]) -> None:
    with bank() as t:
        t.send(Pay(how=how))
        t.drain(to_the_end=True)
    assert [event["exception"]["values"][-1]["value"] for event in sent] == told


def test_neither_body_nor_local_variables_are_sent_unless_asked_for(sent: list[dict[str, Any]]) -> None:
    with bank() as t:
        t.send(Pay(how="reject"))
        t.drain()
    assert "4000-0000" not in json.dumps(sent)
    assert "vars" not in json.dumps(sent)
    sent.clear()
    with bank(body=True) as t:
        t.send(Pay(how="reject"))
        t.drain()
    (event,) = sent
    assert event["extra"]["command"] == {"account": 7, "tenant": "north", "card": "4000-0000", "password": "[Filtered]", "how": "reject"}
    *_, handler, function = event["exception"]["values"][0]["stacktrace"]["frames"]
    assert function["vars"]["how"] == "'reject'"
    assert handler["vars"]["command"] == "Pay(…)"
    assert "sesame" not in json.dumps(event)


@pytest.mark.parametrize("body", [False, True])
def test_secrets_of_the_settings_are_never_sent(sent: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, body: bool) -> None:
    monkeypatch.setattr("chappe.redaction._known", {KEPT})
    with bank(body=body) as t:
        t.send(PayNow(how="secret"))
        t.send(Pay(card=KEPT, how="reject"))
        t.drain()
    assert len(sent) == 2
    assert KEPT not in json.dumps([{**event, "breadcrumbs": None} for event in sent])
    assert "does not answer" in json.dumps(sent)


def test_a_handler_in_a_thread_is_reported_like_others(sent: list[dict[str, Any]]) -> None:
    with bank() as t:
        t.send(PayNow())
        t.drain()
    (event,) = sent
    assert event["contexts"]["command"]["type"] == "pay.now"
    assert [frame["function"] for frame in event["exception"]["values"][0]["stacktrace"]["frames"]][-2:] == ["pay_now", "fail"]


def test_a_timeout_is_one_issue_wherever_it_cut(sent: list[dict[str, Any]]) -> None:
    with bank() as t:
        t.send(Slow())
        t.drain()
    (event,) = sent
    assert event["fingerprint"] == ["slow", "timeout"]
    assert event["exception"]["values"][-1]["type"] == "TimeoutError"


def test_an_inline_command_is_reported_where_it_was_sent(sent: list[dict[str, Any]]) -> None:
    with bank() as t, pytest.raises(ValueError, match="no money"):
        t.send(Inline())
    (event,) = sent
    assert event["contexts"]["command"]["type"] == "inline"


def test_an_error_of_several_commands_together_is_one(sent: list[dict[str, Any]]) -> None:
    with bank() as t:
        t.send([Several(number=n) for n in range(3)])
        t.drain(to_the_end=True)
        assert len(t.dead) == 3
    assert len(sent) == 1


def test_messages_at_the_same_time_do_not_share_what_they_tell(sent: list[dict[str, Any]]) -> None:
    with bank() as t:
        t.send([Beside(name="a"), Beside(name="b")])
        t.drain()
    assert sorted((event["exception"]["values"][0]["value"], event["tags"]["mine"]) for event in sent) == [("a", "a"), ("b", "b")]
    assert len({event["contexts"]["command"]["id"] for event in sent}) == 2


def test_what_a_handler_logs_as_an_error_has_the_command_too(sent: list[dict[str, Any]]) -> None:
    app = App("logs")
    app.use(sentry())

    @app.handles(PayNow)
    async def pay(command: PayNow) -> None:
        logging.getLogger("bank").error("the safe is open")

    with testing(app) as t:
        t.send(PayNow())
        t.drain()
    (event,) = sent
    assert event["logentry"]["message"] == "the safe is open"
    assert event["contexts"]["command"]["type"] == "pay.now"


def test_without_a_dsn_nothing_is_wrapped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SENTRY_DSN", raising=False)

    async def handle(*_: Any) -> Any: ...

    assert sentry().wrap_handle(Pay.__spec__, handle) is handle
    assert sentry().wrap_apart(Pay.__spec__, handle) is handle
