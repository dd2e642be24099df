"""Connections to databases are closed around handlers, as Django closes them around requests."""

from __future__ import annotations

from typing import Any

from asgiref.sync import SyncToAsync
from django.db import close_old_connections

from chappe.bus.bus import Handle, Middleware
from chappe.bus.context import Context
from chappe.bus.steps import current_slot
from chappe.messages.capabilities import MessageSpec


class Connections(Middleware):
    """Before and after each handler, closes connections that are broken or older than CONN_MAX_AGE, in the threads that have them."""

    def wrap_handle(self, spec: MessageSpec, call_next: Handle) -> Handle:
        # Django's asynchronous ORM works in this one thread, which does one thing after the other: nobody needs to wait for it.
        submit = SyncToAsync.single_thread_executor.submit

        async def around(message: Any, context: Context) -> Any:
            here = current_slot.get()

            def executes(begins: bool) -> None:
                close_old_connections()
                here.in_thread(begins)

            token = current_slot.set(here._replace(in_thread=executes))
            submit(close_old_connections)
            try:
                return await call_next(message, context)
            finally:
                current_slot.reset(token)
                submit(close_old_connections)

        return around
