"""A section of the admin: the queues of the application, its dead letters with retry and discard, and the calls of tasks."""

from __future__ import annotations

import datetime
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import Model
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse

from chappe.connection import Connection
from chappe.errors import ChappeError
from chappe.failures import first_line, printable
from chappe.integrations.django.application import application
from chappe.integrations.django.models import Call, DeadLetter, Outbox, Queue
from chappe.triggers.firings import firings

if TYPE_CHECKING:
    from chappe.engines.contract.letters import Letter

    ModelAdmin = admin.ModelAdmin[Model]
else:
    ModelAdmin = admin.ModelAdmin  # it takes no type when it runs

log = logging.getLogger("chappe.django")

_SHOWN: Final = 100


def _ask(work: Callable[[Connection], Awaitable[Any]]) -> Any:
    """Ask the engine, from the thread of a request."""
    app = application()

    async def run() -> Any:
        return await work(await app.connection())

    return app.wait_for(run())


class _Section(ModelAdmin):
    """A page of its own in place of a list of rows."""

    template = ""

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Nothing is added by hand."""
        return False

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        """Show the page, or say that the engine does not answer."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        if request.method == "POST":
            return self.act(request)
        shown: dict[str, Any] = {**self.admin_site.each_context(request), "title": str(self.model._meta.verbose_name_plural).capitalize()}  # noqa: SLF001 - that is its public name
        try:
            shown |= self.look(request)
        except ChappeError as error:
            messages.error(request, f"Chappe does not answer: {error}")
        return TemplateResponse(request, self.template, shown)

    def look(self, request: HttpRequest) -> dict[str, Any]:
        """Return what the page shows."""
        raise NotImplementedError

    def act(self, request: HttpRequest) -> HttpResponse:
        """Do what was asked for; there is nothing to do by default."""
        raise PermissionDenied


@admin.register(Queue)
class QueueAdmin(_Section):
    """How many messages wait, run and died in each queue, and when schedules fire next."""

    template = "chappe/queues.html"

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nothing is changed here."""
        return False

    def look(self, request: HttpRequest) -> dict[str, Any]:
        """Return the queues and the schedules."""
        app = application()
        overview = _ask(lambda connection: connection.store.overview())
        fired = _ask(lambda connection: firings(app.schedules, connection.store, app.bus.now()))
        return {
            "queues": overview.queues,
            "letters": reverse(f"{self.admin_site.name}:chappe_deadletter_changelist"),
            "schedules": [{"schedule": one, "next": datetime.datetime.fromtimestamp(one.next, datetime.UTC)} for one in fired],
        }


@admin.register(DeadLetter)
class DeadLetterAdmin(_Section):
    """What could not be handled, to be tried again or discarded."""

    template = "chappe/dead_letters.html"

    def look(self, request: HttpRequest) -> dict[str, Any]:
        """Return the letters after a number, of one queue or of all."""
        queue, after = request.GET.get("queue") or None, request.GET.get("after", "")
        first = int(after) if after.isascii() and after.isdigit() and len(after) < 19 else 0
        letters: list[Letter] = _ask(lambda connection: connection.store.letters(queue, after=first, limit=_SHOWN))
        return {
            "letters": [_row(letter) for letter in letters],
            "queue": queue,
            "more": letters[-1].number if len(letters) == _SHOWN else None,
            "may_retry": self.has_change_permission(request),
            "may_discard": self.has_delete_permission(request),
        }

    def act(self, request: HttpRequest) -> HttpResponse:
        """Retry or discard the letters that were chosen, if this user may."""
        verb = "discard" if request.POST.get("verb") == "discard" else "retry"
        if not (self.has_delete_permission(request) if verb == "discard" else self.has_change_permission(request)):
            raise PermissionDenied
        numbers = [int(number) for number in request.POST.getlist("number") if number.isascii() and number.isdigit() and len(number) < 19]
        try:
            count = _ask(lambda c: (c.store.discard_letters if verb == "discard" else c.store.retry_letters)(numbers))
        except ChappeError as error:
            messages.error(request, f"Nothing was done: {error}")
        else:
            done = "discarded" if verb == "discard" else "ready again"
            messages.success(request, f"{count} dead letter{'s are' if count != 1 else ' is'} {done}.")
            log.info("%s: %s dead letters %s", request.user, verb, numbers)
        return HttpResponseRedirect(request.get_full_path())


def _row(letter: Letter) -> dict[str, Any]:
    return {
        "number": letter.number, "queue": letter.queue, "type": letter.envelope.type, "id": letter.envelope.id, "reason": letter.reason,
        "attempts": letter.attempts, "died": datetime.datetime.fromtimestamp(letter.died_at, datetime.UTC),
        "error": first_line(letter.error), "traceback": letter.error,
        "body": printable(letter.envelope.body[:2000].decode(errors="replace")),
    }  # fmt: skip


class _Table(ModelAdmin):
    """Rows that only Chappe writes."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Nothing is added by hand."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nothing is changed by hand."""
        return False


@admin.register(Call)
class CallAdmin(_Table):
    """The calls of tasks, and what became of them."""

    list_display = ("task", "status", "queue_name", "enqueued_at", "started_at", "finished_at")
    list_filter = ("status", "queue_name", "backend")
    search_fields = ("task", "id")


@admin.register(Outbox)
class OutboxAdmin(_Table):
    """What waits to be sent, and why it was refused."""

    list_display = ("type", "written_at", "refused_at", "error")
