"""What users see: their triggers, each on or off, with *fire now*."""

from __future__ import annotations

from typing import Any, cast

from django.contrib import admin, messages
from django.db.models import Count, Q, QuerySet
from django.http import HttpRequest

from chappe.integrations.django import send_on_commit
from triggers.models import Account, Item, Trigger
from triggers.tasks import Fetch

admin.site.site_header = admin.site.site_title = "Triggers"


@admin.register(Trigger)
class TriggerAdmin(admin.ModelAdmin):  # pyright: ignore[reportMissingTypeArgument] - it takes none when it runs
    """Triggers in a list in which they are switched on and off."""

    list_display = ("name", "user", "is_active", "goes_to", "waiting", "next", "wrong")
    list_editable = ("is_active",)
    list_filter = ("is_active", ("trouble", admin.EmptyFieldListFilter), "account__service", "user")
    ordering = ("name",)
    list_select_related = ("account", "user")
    list_per_page = 100
    search_fields = ("name", "url")
    readonly_fields = ("checked_at", "trouble")
    actions = ("fire_now", "switch_on", "switch_off")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Trigger]:
        """Count what waits."""
        found = cast("QuerySet[Trigger]", super().get_queryset(request))
        return found.annotate(waits=Count("item", filter=Q(item__done_at=None)))

    @admin.display(description="from and to", ordering="account__service")
    def goes_to(self, trigger: Trigger) -> str:
        """Show the source and the service."""
        return f"{trigger.source} → {trigger.account.service}".replace("Service", "")

    @admin.display(description="next check", ordering="next_check")
    def next(self, trigger: Trigger) -> str:
        """Show when it is asked again."""
        return f"{trigger.next_check:%d %b %H:%M}"

    @admin.display(description="trouble", ordering="trouble")
    def wrong(self, trigger: Trigger) -> str:
        """Show the beginning of what is wrong; the whole sentence is on its page."""
        return trigger.trouble if len(trigger.trouble) <= 60 else f"{trigger.trouble[:59]}…"

    @admin.display(description="waiting", ordering="waits")
    def waiting(self, trigger: Any) -> int:
        """Show how many items wait."""
        return trigger.waits

    @admin.action(description="Fire now")
    def fire_now(self, request: HttpRequest, chosen: QuerySet[Trigger]) -> None:
        """Ask the sources now, and publish what is new."""
        keys = list(chosen.values_list("pk", flat=True))
        send_on_commit([Fetch(trigger=key, publish=True) for key in keys], priority=10)
        self.message_user(request, f"{len(keys)} triggers are fired.", messages.SUCCESS)

    @admin.action(description="Switch on")
    def switch_on(self, request: HttpRequest, chosen: QuerySet[Trigger]) -> None:
        """Have the next sweep take them."""
        chosen.update(is_active=True)

    @admin.action(description="Switch off")
    def switch_off(self, request: HttpRequest, chosen: QuerySet[Trigger]) -> None:
        """Have no sweep take them."""
        chosen.update(is_active=False)


@admin.register(Account)
class AccountAdmin(admin.ModelAdmin):  # pyright: ignore[reportMissingTypeArgument]
    """Accounts, with until when they are closed."""

    list_display = ("user", "service", "address", "closed_until")


@admin.register(Item)
class ItemAdmin(admin.ModelAdmin):  # pyright: ignore[reportMissingTypeArgument]
    """Items, those that wait and those that are done."""

    list_display = ("title", "trigger", "date", "done_at")
    list_filter = (("done_at", admin.EmptyFieldListFilter), "trigger__account__service")
    list_select_related = ("trigger",)
