"""Two sweeps: one fetches what is new and fills a cache, the other publishes from it. Nothing is said where there is nothing to do."""

from __future__ import annotations

import datetime
import logging
from collections.abc import AsyncIterator, Sequence

import httpx2
from asgiref.sync import sync_to_async
from django.utils import timezone

from chappe import App, Command, Context, Rate, cron, every
from chappe.triggers.poll import poll
from triggers.models import Item, Trigger
from triggers.services import Closed, Refused, hand_over

app = App("triggers")
log = logging.getLogger("triggers")

TLS = httpx2.create_ssl_context(trust_env=False)  # read once, before workers are forked: it takes longer than a call
SWEEP = 360.0
KEPT = datetime.timedelta(days=30)


class FetchAll(Command, unique="all", priority=1):
    """Ask the sources that are due, or, `at_once`, all of them."""

    at_once: bool = False


class Fetch(Command, queue="fetch", unique="{trigger}", timeout=60.0):
    """Ask the source of one trigger; `publish` sends on what is new without waiting for the next sweep."""

    trigger: int
    publish: bool = False


class PublishAll(Command, unique="all", priority=1):
    """Publish what waits for accounts that are open."""


class Publish(Command, queue="publish", unique="{trigger}", timeout=120.0, rate=Rate("320/h", key="{account}", burst=320)):
    """Publish what waits of one trigger, as many items as it may at once."""

    trigger: int
    account: int


class LookAfter(Command):
    """Say which triggers a sweep has not come to in time; they are not lost, and go on."""

    began: datetime.datetime
    triggers: list[int]


class Recycle(Command):
    """Forget the items that were published long ago; which ones a feed has had is remembered with the feed."""


@app.provides
async def http() -> AsyncIterator[httpx2.AsyncClient]:
    """One client for each worker, with bounded patience."""
    limits = httpx2.Limits(max_connections=200, max_keepalive_connections=50)
    async with httpx2.AsyncClient(
        timeout=20.0, limits=limits, trust_env=False, verify=TLS, headers={"user-agent": "triggers/1.0"}
    ) as client:
        yield client


@app.handles(FetchAll)
async def fetch_all(command: FetchAll) -> int:
    now = timezone.now()
    wanted = Trigger.objects.filter(is_active=True, user__is_active=True)
    due = wanted if command.at_once else wanted.filter(next_check__lte=now)
    keys = [key async for key in due.values_list("pk", flat=True)]
    await app.asend([Fetch(trigger=key) for key in keys])
    if keys:
        await app.asend(LookAfter(began=now, triggers=keys), delay=SWEEP)
    return len(keys)


@app.handles(Fetch)
async def fetch(command: Fetch, http: httpx2.AsyncClient) -> None:
    trigger = await Trigger.objects.select_related("account").filter(pk=command.trigger).afirst()
    if trigger is None:
        return  # its user has deleted it
    found = await poll(trigger.feed, http)
    if found.feed.trouble and found.feed.trouble != trigger.trouble:
        log.warning("%s: %s", trigger.name, found.feed.trouble)
    if await sync_to_async(trigger.keep)(found) and command.publish:
        await app.asend(Publish(trigger=trigger.pk, account=trigger.account.pk))


@app.handles(PublishAll)
async def publish_all(_: PublishAll) -> int:
    waiting = Item.objects.filter(done_at=None, trigger__is_active=True, trigger__user__is_active=True)
    open_now = waiting.exclude(trigger__account__closed_until__gt=timezone.now())
    keys = [pair async for pair in open_now.values_list("trigger", "trigger__account").distinct()]
    await app.asend([Publish(trigger=trigger, account=account) for trigger, account in keys])
    return len(keys)


@app.handles(Publish)
async def publish(command: Publish, http: httpx2.AsyncClient, context: Context) -> None:
    trigger = await Trigger.objects.select_related("account__user", "user").filter(pk=command.trigger).afirst()
    if trigger is None:
        return
    waiting = Item.objects.filter(trigger=trigger, done_at=None).order_by("date", "pk")[: trigger.most_at_once]
    done = await publish_each(http, trigger, [item async for item in waiting], context)
    if done:
        log.info("%s - %s - %s - %s - %s new data", trigger.user, trigger.source, trigger.account.service, trigger.name, done)


async def publish_each(http: httpx2.AsyncClient, trigger: Trigger, items: Sequence[Item], context: Context) -> int:
    """Hand items over one by one and say how many went; at the first that does not go, the others wait for the next sweep."""
    account = trigger.account
    for number, item in enumerate(items):
        begun = Item.objects.filter(pk=item.pk)
        try:
            if item.begun_at is None:
                await begun.aupdate(begun_at=timezone.now())
            await hand_over(http, account, item, timezone.now().timestamp())
        except Closed as closed:
            await context.throttle(closed.until - timezone.now().timestamp())  # for what other workers have of this account
            account.closed_until = datetime.datetime.fromtimestamp(closed.until, datetime.UTC)
            await account.asave(update_fields=["closed_until"])
            log.warning("%s - %s, nothing more until %s", account.user, closed, f"{account.closed_until:%H:%M:%S}")
            return number
        except Refused as refused:
            await Trigger.objects.filter(pk=trigger.pk).aupdate(trouble=str(refused)[:300])
            log.warning("%s: %s", trigger.name, refused)
            return number
        await begun.aupdate(done_at=timezone.now())
    return len(items)


@app.handles(LookAfter)
async def look_after(command: LookAfter) -> None:
    late = Trigger.objects.filter(pk__in=command.triggers, is_active=True).exclude(checked_at__gte=command.began)
    if names := [name async for name in late.values_list("name", flat=True)]:
        log.warning("%s of %s triggers took longer than %g s: %s", len(names), len(command.triggers), SWEEP, ", ".join(names)[:500])


@app.handles(Recycle)
async def recycle(_: Recycle) -> None:
    await Item.objects.filter(done_at__lt=timezone.now() - KEPT).adelete()
    log.info("recycle of cache done!")


app.schedule(every(13 * 60), FetchAll())
app.schedule(every(15 * 60), PublishAll())
app.schedule(cron("0 4 * * *"), Recycle())
