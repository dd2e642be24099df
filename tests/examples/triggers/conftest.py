"""The project in this process, with stand-ins that it reaches without a network."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from chappe.testing import Trial, testing

from ...django_project import EXAMPLES, empty, set_up

pytest.importorskip("django", reason="Django is not installed")
set_up()

from triggers.stand_ins import Manner, StandIns, feeds_in  # noqa: E402 - it is on the path now

SAMPLE = Path(EXAMPLES) / "triggers" / "sample_feeds"


class World:
    """A user with accounts and triggers, the stand-ins, and the application without processes."""

    def __init__(self, trial: Trial) -> None:
        self.t = trial
        self.paths = feeds_in(SAMPLE)
        self.stand_ins = StandIns(self.paths)
        transport = httpx2.ASGITransport(app=self.stand_ins.app())
        trial.provide(httpx2.AsyncClient, httpx2.AsyncClient(transport=transport))

    def user(self, name: str = "foxmask", *, is_active: bool = True) -> Any:
        from django.contrib.auth.models import User

        return User.objects.get_or_create(username=name, defaults={"is_active": is_active})[0]

    def account(self, service: str = "ServiceWebhook", user: Any = None) -> Any:
        from triggers.models import Account

        user = user or self.user()
        place = service.removeprefix("Service").lower()
        known = {"user": user, "service": service, "address": f"http://services/{place}", "token": f"{user}-{place}"}
        return Account.objects.get_or_create(**known)[0]

    def trigger(self, name: str = "news.rss", account: Any = None, **more: Any) -> Any:
        from triggers.models import Trigger

        account = account or self.account()
        url = f"http://feeds/feeds/{[path.name for path in self.paths].index(name)}" if "/" not in name else name
        return Trigger.objects.create(user=account.user, name=name, account=account, **{"url": url, **more})

    def backlog(self, trigger: Any, count: int) -> None:
        from django.utils import timezone

        from triggers.models import Item

        Item.objects.bulk_create(
            Item(trigger=trigger, key=f"{n}", title=f"item {n}", link=f"http://x/{trigger.pk}/{n}", date=timezone.now())
            for n in range(count)
        )

    def grow(self, number: int, *titles: str) -> None:
        """Have a feed grow by some entries, the last the newest."""

        async def add() -> None:
            async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=self.stand_ins.app()), base_url="http://feeds") as http:
                for title in titles:
                    (await http.post(f"/feeds/{number}", json={"title": title})).raise_for_status()

        asyncio.run(add())

    def allow(self, calls: int, window: float = 900.0) -> None:
        self.stand_ins._manner = Manner(calls=calls, window=window)

    def sweep(self, *, at_once: bool = True) -> None:
        """Fetch everything and publish it."""
        from triggers.tasks import FetchAll, PublishAll

        self.t.send(FetchAll(at_once=at_once))
        self.t.drain()
        self.t.send(PublishAll())
        self.t.drain()

    @property
    def taken(self) -> list[str]:
        """What the services took, in order."""
        return [one.title for one in self.stand_ins._taken.values()]

    @property
    def counts(self) -> dict[str, int]:
        one = self.stand_ins
        return {"repeated": one._repeated, "refused": one._refused, "asked": one._asked, "unchanged": one._unchanged}


@pytest.fixture
def world() -> Iterator[World]:
    from django.db import connections

    from triggers.tasks import app

    empty()
    with testing(app) as trial:
        yield World(trial)
    connections.close_all()
