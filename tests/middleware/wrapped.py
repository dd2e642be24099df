"""One middleware around one message, without a bus."""

from typing import Any

from chappe import Context
from chappe.bus.bus import Middleware
from chappe.bus.draft import Draft
from chappe.messages.envelope import Envelope, Publication
from chappe.messages.message import Message


def published(middleware: Middleware, message: Message, draft: Draft | None = None) -> Publication:
    """Return what leaves when a message passes the middleware on its way out."""

    def seal(message: Any, draft: Draft) -> Publication:
        return Publication(Envelope(draft.id, "m", b""), "q", "", draft.priority, draft.delay, draft.options)

    return middleware.wrap_send(message.__spec__, seal)(message, draft or Draft("id"))


async def handled(middleware: Middleware, message: Message, inner: Any, context: Context | None = None) -> Any:
    """Return the result of a handler inside the middleware; `inner` is awaited with message and context."""
    return await middleware.wrap_handle(message.__spec__, inner)(message, context or Context("id"))


def costs_nothing(middleware: Middleware, message: Message) -> bool:
    """Tell whether the middleware leaves both ways of this message as they were."""

    def seal(message: Any, draft: Draft) -> Publication:
        raise AssertionError

    async def handle(message: Any, context: Context) -> Any:
        raise AssertionError

    spec = message.__spec__
    return middleware.wrap_send(spec, seal) is seal and middleware.wrap_handle(spec, handle) is handle
