"""Sending what a transaction of the project decided, once it is committed."""

from __future__ import annotations

from collections.abc import Sequence

from django.db import transaction

from chappe.integrations.django.apps import application
from chappe.messages.message import Message


def send_on_commit(
    message: Message | Sequence[Message], *, using: str | None = None, delay: float | None = None, priority: int | None = None
) -> None:
    """Send a message, or several, when the running transaction of the database `using` is committed; where there is none, at once.

    What is rolled back sends nothing. A process that dies between the commit and the send loses the message: where that matters, send
    first and have the handler look whether the row is there.
    """
    listed = [message] if isinstance(message, Message) else list(message)
    transaction.on_commit(lambda: application().send(listed, delay=delay, priority=priority), using=using)
