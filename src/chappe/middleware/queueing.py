"""How a message waits for its turn: the capabilities `priority`, `delay`, `key`, `merge`, `fair`, `unique` and `results`."""

from __future__ import annotations

from typing import Any

from chappe.bus.bus import Middleware, Send
from chappe.bus.draft import Draft
from chappe.messages.capabilities import MessageSpec
from chappe.messages.envelope import TENANT, Publication, changed
from chappe.messages.template import renderer


class Queueing(Middleware):
    """Sets on publications what their class says of it; another priority or delay of the sender's counts more."""

    def wrap_send(self, spec: MessageSpec, call_next: Send) -> Send:
        priority, delay, merges = spec.priority, spec.delay, spec.merges
        unique = None if spec.unique is None else f"{spec.name}:{spec.unique.key}"
        templates = {"key": spec.key, "tenant": spec.fair, "unique": unique}
        renderers = [(name, renderer(template)) for name, template in templates.items() if template is not None]
        always: dict[str, Any] = {"merges": True} if merges else {}
        always |= {"tracked": True} if spec.results else {}
        always |= {} if spec.unique is None else {"unique_for": spec.unique.window}
        if not (priority or delay or renderers or always):
            return call_next

        def queued(message: Any, draft: Draft) -> Publication:
            draft.priority = priority if draft.priority is None else draft.priority
            draft.delay = delay if draft.delay is None else draft.delay
            if renderers or always:
                options = always | {name: render(message) for name, render in renderers}
                if merges:
                    options["merged_ids"] = (draft.id,)
                draft.options = changed(draft.options, **options)
                if "tenant" in options:
                    draft.headers = {**(draft.headers or {}), TENANT: options["tenant"]}
            return call_next(message, draft)

        return queued
