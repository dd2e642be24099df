"""Messages of one key: in order, merged while pending, or unique, and of one tenant: `key`, `merge`, `unique` and `fair`."""

from __future__ import annotations

from typing import Any

from chappe.bus.bus import Middleware, Send
from chappe.bus.draft import Draft
from chappe.messages.capabilities import MessageSpec
from chappe.messages.envelope import TENANT, Publication, changed
from chappe.messages.template import renderer


class Keys(Middleware):
    """Sets on publications the key by which they wait for each other."""

    def wrap_send(self, spec: MessageSpec, call_next: Send) -> Send:
        if spec.key is None:
            return call_next
        render, merges = renderer(spec.key), spec.merges

        def keyed(message: Any, draft: Draft) -> Publication:
            draft.options = changed(draft.options, key=render(message), merges=merges, merged_ids=(draft.id,) if merges else ())
            return call_next(message, draft)

        return keyed


class Fairness(Middleware):
    """Sets on publications the tenant whose share of the workers' time they count against."""

    def wrap_send(self, spec: MessageSpec, call_next: Send) -> Send:
        if spec.fair is None:
            return call_next
        render = renderer(spec.fair)

        def fair(message: Any, draft: Draft) -> Publication:
            tenant = render(message)
            draft.options = changed(draft.options, tenant=tenant)
            draft.headers = {**(draft.headers or {}), TENANT: tenant}
            return call_next(message, draft)

        return fair


class Uniqueness(Middleware):
    """Sets on publications the key under which a second one is refused."""

    def wrap_send(self, spec: MessageSpec, call_next: Send) -> Send:
        if spec.unique is None:
            return call_next
        render, window, name = renderer(spec.unique.key), spec.unique.window, spec.name

        def unique(message: Any, draft: Draft) -> Publication:
            draft.options = changed(draft.options, unique=f"{name}:{render(message)}", unique_for=window)
            return call_next(message, draft)

        return unique


class Tracking(Middleware):
    """Has the state and result of messages kept that ask for it: the capability `results`."""

    def wrap_send(self, spec: MessageSpec, call_next: Send) -> Send:
        if not spec.results:
            return call_next

        def tracked(message: Any, draft: Draft) -> Publication:
            draft.options = changed(draft.options, tracked=True)
            return call_next(message, draft)

        return tracked
