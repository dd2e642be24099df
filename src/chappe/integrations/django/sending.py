"""Sending what a transaction of the project decided, once it is committed, through an outbox in the project's own database."""

from __future__ import annotations

import datetime
import functools
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from django.db import transaction
from django.utils import timezone

from chappe.errors import BrokerError
from chappe.integrations.django.application import application
from chappe.integrations.outbox import AFTER_REFUSAL, AT_ONCE, decode, encode, parts, prepared, relay
from chappe.messages.message import Command, Message

if TYPE_CHECKING:
    from chappe.integrations.django.models import Outbox

log = logging.getLogger("chappe.django")

_LEFT_BEHIND: Final = datetime.timedelta(seconds=30)
_AFTER_REFUSAL: Final = datetime.timedelta(seconds=AFTER_REFUSAL)


class RelayOutbox(Command, name="django.relay.outbox", unique="all"):
    """Send what was committed and not sent, because its process died or the broker was away."""


def send_on_commit(
    message: Message | Sequence[Message], *, using: str | None = None, delay: float | None = None, priority: int | None = None
) -> None:
    """Send a message, or several, when the running transaction of the database `using` is committed; where there is none, at once.

    What is rolled back sends nothing. What is committed is sent: a process that dies in between, and a broker that is away, delay it by
    a minute or two, until `RelayOutbox` comes by. What the broker refuses stays in the outbox with the reason.
    """
    from chappe.integrations.django.models import Outbox

    app = application()
    publications, _ = prepared(app, message, delay=delay, priority=priority)
    if transaction.get_connection(using).in_atomic_block:
        rows = Outbox.objects.using(using).bulk_create(Outbox(type=one.envelope.type, publication=encode(one)) for one in publications)
        transaction.on_commit(functools.partial(_leave, rows, using), using=using)
    else:
        app.wait_for(app.publish_all(publications))


def _leave(rows: Sequence[Outbox], using: str | None) -> None:
    try:
        _relay(rows, using)
    except BrokerError as error:
        log.warning("%s messages wait in the outbox: %s", len(rows), error)


def _relay(rows: Sequence[Outbox], using: str | None) -> int:
    """Send what was written, and say how many have left the table."""
    from chappe.integrations.django.models import Outbox

    app, table, left = application(), Outbox.objects.using(using), 0
    for part in parts([(row.pk, decode(bytes(row.publication))) for row in rows]):
        relayed = app.wait_for(relay(app, part, "the outbox"))
        left += table.filter(pk__in=[number for number, why in relayed.items() if why is None]).delete()[0]
        for number, why in relayed.items():
            if why is not None:
                table.filter(pk=number).update(refused_at=timezone.now(), error=why)
    return left


def relay_outbox(_: RelayOutbox) -> int:
    """Send what has been left behind in the default database, the oldest first, and say how many that were."""
    from chappe.integrations.django.models import Outbox

    began, count = timezone.now(), 0
    left = Outbox.objects.filter(written_at__lt=began - _LEFT_BEHIND).exclude(refused_at__gt=began - _AFTER_REFUSAL)
    while rows := list(left.order_by("pk")[:AT_ONCE]):
        count += _relay(rows, None)
    if count:
        log.info("sent %s messages that were left behind in the outbox", count)
    return count
