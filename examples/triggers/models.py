"""What users own: accounts at services, triggers between a source and an account, and the items that are on their way."""

from __future__ import annotations

import datetime
import hashlib
from contextlib import nullcontext
from typing import Any, ClassVar

import msgspec
from django.conf import settings
from django.db import models, transaction
from django.utils import timezone

from chappe.triggers.feed import Feed, Poll

NEWEST = 1  # of what a source has when its trigger is new, so that its owner sees that it works


class Account(models.Model):
    """One user's account at a service; it is closed for everybody when the service says that it was called too often."""

    class Service(models.TextChoices):
        """Where items can go."""

        POCKET = "ServicePocket", "Pocket"
        TRELLO = "ServiceTrello", "Trello"
        MASTODON = "ServiceMastodon", "Mastodon"
        WEBHOOK = "ServiceWebhook", "a webhook"

    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE)
    service = models.CharField(max_length=20, choices=Service.choices)
    address = models.URLField(help_text="Where its API is.")
    token = models.CharField(max_length=100)
    closed_until = models.DateTimeField(null=True, blank=True, help_text="It refused us until then: nothing is sent before.")

    def __str__(self) -> str:
        return f"{self.service} of {self.user}"


class Trigger(models.Model):
    """What is new at a source goes to an account."""

    class Source(models.TextChoices):
        """Where items come from."""

        RSS = "ServiceRss", "a feed"
        MASTODON = "ServiceMastodon", "a tag on Mastodon, which is a feed too"

    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE)
    name = models.CharField(max_length=100)
    source = models.CharField(max_length=20, choices=Source.choices, default=Source.RSS)
    url = models.URLField(max_length=500, help_text="The address of the feed.")
    account = models.ForeignKey(Account, models.CASCADE, help_text="Where new items go.")
    is_active = models.BooleanField("on", default=True)
    most_at_once = models.PositiveSmallIntegerField(default=5, help_text="So many items in one sweep; the others wait for the next.")
    state = models.TextField(default="", blank=True, editable=False)
    next_check = models.DateTimeField(default=timezone.now, db_index=True, help_text="Earlier for a source that is busy.")
    checked_at = models.DateTimeField(null=True, blank=True, editable=False)
    trouble = models.CharField(max_length=300, default="", blank=True, editable=False)

    def __str__(self) -> str:
        return self.name

    @property
    def feed(self) -> Feed:
        """What is remembered of the feed; another address is another feed."""
        known = msgspec.json.decode(self.state, type=Feed) if self.state else Feed(self.url)
        return known if known.url == self.url else Feed(self.url)

    def keep(self, poll: Poll) -> int:
        """Remember what a poll found, items and feed in one transaction, and say how many items are to be published."""
        fresh = poll.items if self.feed.digest else poll.items[-NEWEST:]
        items = [
            Item(trigger=self, key=_key(one.id), title=one.title[:300], link=one.link[:1000], date=_moment(one.published)) for one in fresh
        ]
        changed: dict[str, Any] = {
            "url": poll.feed.url,
            "state": msgspec.json.encode(poll.feed).decode(),
            "trouble": poll.feed.trouble,
            "checked_at": _moment(poll.feed.polled_at),
            "next_check": _moment(poll.feed.next_poll),
        }
        # Where nothing is new one statement is the transaction: nobody waits for the lock while this process has others to run.
        with transaction.atomic() if items else nullcontext():
            if items:
                Item.objects.bulk_create(items, ignore_conflicts=True)
            Trigger.objects.filter(pk=self.pk).update(**changed)
        return len(items)


class Item(models.Model):
    """One entry of a source on its way to an account; it stays for a while when it is done."""

    trigger = models.ForeignKey(Trigger, models.CASCADE)
    key = models.CharField(max_length=100)
    title = models.CharField(max_length=300)
    link = models.URLField(max_length=1000)
    date = models.DateTimeField()
    begun_at = models.DateTimeField(null=True, blank=True)
    done_at = models.DateTimeField(null=True, blank=True, db_index=True)

    class Meta:
        """The same entry is never there twice; what waits is found by an index of its own."""

        constraints: ClassVar = [models.UniqueConstraint(fields=["trigger", "key"], name="once")]
        indexes: ClassVar = [models.Index(fields=["trigger"], condition=models.Q(done_at=None), name="waiting")]

    def __str__(self) -> str:
        return self.title


def _key(text: str) -> str:
    return text if len(text) <= 100 else hashlib.sha256(text.encode()).hexdigest()


def _moment(seconds: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(max(0.0, seconds), datetime.UTC)
