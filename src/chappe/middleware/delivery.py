"""When and in which order a message is delivered: the capabilities `priority` and `delay`."""

from __future__ import annotations

from typing import Any

from chappe.bus.bus import Middleware, Send
from chappe.bus.draft import Draft
from chappe.messages.capabilities import MessageSpec
from chappe.messages.envelope import Publication


class Delivery(Middleware):
    """Sets on publications the priority and delay of their class, unless the sender gave others."""

    def wrap_send(self, spec: MessageSpec, call_next: Send) -> Send:
        if spec.priority == 0 and spec.delay == 0:
            return call_next
        priority, delay = spec.priority, spec.delay

        def timed(message: Any, draft: Draft) -> Publication:
            draft.priority = priority if draft.priority is None else draft.priority
            draft.delay = delay if draft.delay is None else draft.delay
            return call_next(message, draft)

        return timed
