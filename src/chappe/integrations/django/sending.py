"""Sending what a transaction of the project decided, once it is committed, through an outbox in the project's own database."""

from __future__ import annotations

import datetime
import functools
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from django.db import transaction
from django.utils import timezone

from chappe.bus.draft import Draft, draft_of, listed, new_id
from chappe.errors import BrokerError, UnknownMessage
from chappe.integrations.django.application import application
from chappe.messages.message import Command, Message

if TYPE_CHECKING:
    from chappe.integrations.django.models import Outbox

log = logging.getLogger("chappe.django")

_LEFT_BEHIND: Final = datetime.timedelta(seconds=30)
_AT_ONCE: Final = 500


class RelayOutbox(Command, name="django.relay.outbox", unique="all"):
    """Send what was committed and not sent, because its process died or the broker was away."""


def send_on_commit(
    message: Message | Sequence[Message], *, using: str | None = None, delay: float | None = None, priority: int | None = None
) -> None:
    """Send a message, or several, when the running transaction of the database `using` is committed; where there is none, at once.

    What is rolled back sends nothing. What is committed is sent: a process that dies in between, and a broker that is away, delay it by
    a minute or two, until `RelayOutbox` comes by.
    """
    app = application()
    messages, _ = listed(message)
    keys = [new_id() for _ in messages]
    drafts = [(one, draft_of(one, delay=delay, priority=priority, idempotency_key=key)) for one, key in zip(messages, keys, strict=True)]
    if transaction.get_connection(using).in_atomic_block:
        rows = _written(drafts, keys, using)
        transaction.on_commit(functools.partial(_leave, drafts, rows, using), using=using)
    else:
        app.wait_for(app.publish_all([app.bus.prepare(one, draft) for one, draft in drafts]))


def _written(drafts: Sequence[tuple[Message, Draft]], keys: Sequence[str], using: str | None) -> list[Outbox]:
    from chappe.integrations.django.models import Outbox

    app, now = application(), timezone.now()
    return Outbox.objects.using(using).bulk_create(
        Outbox(
            type=one.__spec__.name,
            body=app.bus.writer_of(type(one))(one),
            key=key,
            due=None if draft.delay is None else now + datetime.timedelta(seconds=draft.delay),
            priority=draft.priority,
        )
        for (one, draft), key in zip(drafts, keys, strict=True)
    )


def _leave(drafts: Sequence[tuple[Message, Draft]], rows: Sequence[Outbox], using: str | None) -> None:
    """Send what was written, each with its row's key, so that the same row is never two messages."""
    for _, draft in drafts:
        draft.id = new_id()  # an id tells since when its message waits: since the commit, however long the transaction was
    try:
        _publish(drafts, rows, using)
    except BrokerError as error:
        log.warning("%s messages wait in the outbox: %s", len(rows), error)


def _publish(drafts: Sequence[tuple[Message, Draft]], rows: Sequence[Outbox], using: str | None) -> None:
    from chappe.integrations.django.models import Outbox

    app = application()
    app.wait_for(app.publish_all([app.bus.prepare(one, draft) for one, draft in drafts]))
    Outbox.objects.using(using).filter(pk__in=[row.pk for row in rows]).delete()


def relay_outbox(_: RelayOutbox) -> int:
    """Send what has been left behind in the default database, the oldest first, and say how many that were."""
    from chappe.integrations.django.models import Outbox

    app, now, count = application(), timezone.now(), 0
    left = Outbox.objects.filter(written_at__lt=now - _LEFT_BEHIND).order_by("pk")
    while rows := list(left[:_AT_ONCE]):
        drafts = list[tuple[Message, Draft]]()
        sent = list[Outbox]()
        for row in rows:
            try:
                one = app.bus.decoder_of(app.registry.message(row.type))(bytes(row.body))
            except UnknownMessage:  # of a release that is not this one: it waits for its own
                left = left.exclude(pk=row.pk)
                continue
            delay = None if row.due is None else max(0.0, (row.due - now).total_seconds())
            drafts.append((one, draft_of(one, delay=delay, priority=row.priority, idempotency_key=row.key)))
            sent.append(row)
        _publish(drafts, sent, None)
        count += len(sent)
    if count:
        log.info("sent %s messages that were left behind in the outbox", count)
    return count
