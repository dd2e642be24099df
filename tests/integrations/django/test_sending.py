"""What a transaction decided is sent when it is committed, and never lost in between."""

import datetime
from typing import Any

import pytest
from django.db import transaction
from django.utils import timezone

from chappe.errors import BrokerUnavailable
from chappe.integrations.django import send_on_commit, sending
from chappe.integrations.django.application import application
from chappe.integrations.django.models import Outbox
from chappe.testing import Trial
from triggers.tasks import Fetch, FetchAll, Publish


def test_what_is_sent_in_a_transaction_leaves_when_it_is_committed(t: Trial) -> None:
    with transaction.atomic():
        with transaction.atomic():
            send_on_commit([Fetch(trigger=1), Fetch(trigger=2)], priority=3)
        assert (t.sent(Fetch), Outbox.objects.count()) == ([], 2)
    assert [one.trigger for one in t.sent(Fetch)] == [1, 2]
    assert Outbox.objects.count() == 0


def test_what_is_rolled_back_sends_nothing(t: Trial) -> None:
    with transaction.atomic():
        with pytest.raises(ZeroDivisionError), transaction.atomic():
            send_on_commit(Fetch(trigger=1))
            1 / 0  # noqa: B018
        send_on_commit(Fetch(trigger=2))
    assert [one.trigger for one in t.sent(Fetch)] == [2]


def test_outside_a_transaction_it_leaves_at_once(t: Trial) -> None:
    send_on_commit(Fetch(trigger=1), delay=60)
    assert t.depth("fetch") == (0, 1)


@pytest.fixture
def broker_away(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    async def refuse(*_: Any) -> None:
        raise BrokerUnavailable("nobody answers")

    monkeypatch.setattr(sending, "relay", refuse)
    return monkeypatch


def left_behind(seconds: float) -> None:
    Outbox.objects.update(written_at=timezone.now() - datetime.timedelta(seconds=seconds))


def test_a_broker_that_is_away_fails_no_request_and_the_message_is_sent_when_it_is_back(t: Trial, broker_away: pytest.MonkeyPatch) -> None:
    with transaction.atomic():
        send_on_commit(Fetch(trigger=1, publish=True))
        send_on_commit(Publish(trigger=2, account=3), delay=600, priority=5)
    broker_away.undo()
    t.send(sending.RelayOutbox())
    t.drain()
    assert t.sent(Fetch) == []  # its own process may be about to send it
    left_behind(60)
    t.send(sending.RelayOutbox())
    t.drain()
    assert (t.sent(Fetch), t.sent(Publish)) == ([Fetch(trigger=1, publish=True)], [Publish(trigger=2, account=3)])
    assert t.depth("publish") == (0, 1)
    assert Outbox.objects.count() == 0


def test_a_message_that_was_sent_and_not_crossed_out_is_not_sent_twice(t: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    class Died(BaseException):
        pass

    def die(self: Any) -> None:
        raise Died

    with monkeypatch.context() as patched:
        patched.setattr("django.db.models.query.QuerySet.delete", die)
        with pytest.raises(Died), transaction.atomic():
            send_on_commit(Fetch(trigger=1))
    assert (len(t.sent(Fetch)), Outbox.objects.count()) == (1, 1)
    t.drain()
    left_behind(60)
    t.send(sending.RelayOutbox())
    t.drain()
    assert (len(t.sent(Fetch)), Outbox.objects.count()) == (1, 0)


def undeclared(t: Trial, queue: str) -> None:
    app = application()

    async def remove() -> None:
        await (await app.connection()).broker.purge(queue, delete=True)

    app.wait_for(remove())


def refused(t: Trial) -> list[tuple[str, str]]:
    return [(row.type, str(row.error)) for row in Outbox.objects.all()]


@pytest.mark.parametrize("place", [0, 1, 2])
def test_one_that_is_refused_stays_with_its_reason_and_holds_up_no_other(t: Trial, broker_away: pytest.MonkeyPatch, place: int) -> None:
    sent = [Fetch(trigger=1), Fetch(trigger=2)]
    with transaction.atomic():
        send_on_commit([*sent[:place], Publish(trigger=9, account=9), *sent[place:]])
    broker_away.undo()
    undeclared(t, "publish")
    left_behind(60)
    assert sending.relay_outbox(sending.RelayOutbox()) == 2  # not by a worker, which would declare the queue
    assert t.sent(Fetch) == sent
    ((kind, why),) = refused(t)
    assert (kind, "publish" in why) == ("publish", True)


def test_one_that_is_refused_at_its_commit_stays_with_its_reason_too(t: Trial) -> None:
    undeclared(t, "publish")
    with transaction.atomic():
        send_on_commit([Fetch(trigger=1), Publish(trigger=9, account=9)])
    assert t.sent(Fetch) == [Fetch(trigger=1)]
    assert [kind for kind, _ in refused(t)] == ["publish"]


def test_what_is_no_message_is_refused_at_once(t: Trial) -> None:
    with pytest.raises(Exception, match="is no message"), transaction.atomic():
        send_on_commit(FetchAll)  # type: ignore[arg-type] - the usual slip
    assert Outbox.objects.count() == 0
