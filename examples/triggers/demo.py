"""`make demo-triggers`: 61 triggers of a user between feeds and services that take 0.8 s a call, swept a few times and checked."""

from __future__ import annotations

import os
import re
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import django
from rich.console import Console
from rich.table import Table

from demos import leave_running, options_of, servers
from triggers.stage import Stage

if TYPE_CHECKING:
    from django.contrib.auth.models import User

    from chappe import Command
    from triggers.models import Account

_TRIGGERS: Final = 61
_CALL: Final = 0.8
_BUSY: Final = 7  # of 60 triggers, 3 to 11 are regularly busy
_LINE: Final = re.compile(
    r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} INFO tasks \d+ (\S+) - (Service\w+) - (Service\w+) - (.+) - (\d+) new data"
)


class Demo:
    """One user's triggers, and the sweeps over them."""

    def __init__(self, stage: Stage, console: Console) -> None:
        self._stage = stage
        self._console = console
        self._lines = 0
        self._table = Table("sweep", "of", "items", "took", "must", title="sweeps", title_justify="left")

    def people(self, count: int) -> None:
        """Make triggers until there are so many, 61 of each user, with four accounts; the admin's is admin, password admin."""
        from django.contrib.auth.models import User

        from triggers.models import Trigger

        have = Trigger.objects.count()
        if not have:
            User.objects.create_superuser("admin", None, password="admin")  # noqa: S106 - of a demo on 127.0.0.1
        feeds = self._stage.http.get(f"{self._stage.stand_ins_url}/feeds").json()
        growing = [number for number, feed in enumerate(feeds) if feed["grows"]]
        sound = [f"/feeds/{growing[n % len(growing)]}" for n in range(have, count - 4)]
        broken = [f"/feeds/{number}" for number, feed in enumerate(feeds) if feed["name"] in ("unrecognized.rss", "page.html")][:1]
        names = subscriptions(self._stage.feeds)
        accounts: list[Account] = []
        made: list[Trigger] = []
        for number, url in enumerate([*sound, *broken, "/moved/0", "/gone", "/nowhere"][: count - have], have):
            if number % _TRIGGERS == 0:
                accounts = self._accounts(User.objects.create_user(f"user{number // _TRIGGERS}" if number else "foxmask"))
            account = accounts[number % len(accounts)]
            name = names[number] if number < len(names) else f"Feed {number}"
            source = "ServiceMastodon" if number % 10 == 2 else "ServiceRss"
            made.append(Trigger(user=account.user, name=name, url=f"{self._stage.stand_ins_url}{url}", account=account, source=source))
        Trigger.objects.bulk_create(made)

    def _accounts(self, user: User) -> list[Account]:
        from triggers.models import Account

        places = {"ServicePocket": "pocket", "ServiceTrello": "trello", "ServiceMastodon": "mastodon", "ServiceWebhook": "webhook"}
        return [
            Account.objects.create(user=user, service=service, address=f"{self._stage.stand_ins_url}/{place}", token=f"{user}-{place}")
            for service, place in places.items()
        ]

    def grow(self) -> None:
        """Have a few sources publish something."""
        from triggers.models import Trigger

        number_of = {trigger.name: int(trigger.url.rpartition("/")[2]) for trigger in Trigger.objects.order_by("pk")[:_BUSY]}
        for name, number in number_of.items():
            self._stage.add(number, f"News of {name}")

    def fetch(self, what: str) -> float:
        """Have all sources asked now, and say how long it took until the last was done."""
        from django.utils import timezone

        from triggers.models import Item, Trigger
        from triggers.tasks import FetchAll

        began, before = timezone.now(), Item.objects.count()
        asked = Trigger.objects.filter(is_active=True)
        count = asked.count()
        seconds = self._time(FetchAll(at_once=True), lambda: not asked.exclude(checked_at__gte=began).exists(), what)
        self._row(f"fetch: {what}", count, Item.objects.count() - before, seconds)
        return seconds

    def publish(self, what: str) -> float:
        """Have everything published that waits, and say how long it took."""
        from triggers.models import Item
        from triggers.tasks import PublishAll

        waiting = Item.objects.filter(done_at=None)
        count, triggers = waiting.count(), waiting.values("trigger").distinct().count()
        seconds = self._time(PublishAll(), lambda: not waiting.exists(), what)
        self._row(f"publish: {what}", triggers, count, seconds)
        return seconds

    def idle(self) -> None:
        """Sweep where nothing is due and nothing waits."""
        from triggers.models import Trigger
        from triggers.tasks import FetchAll, PublishAll, app

        for name, command in (("fetch", FetchAll()), ("publish", PublishAll())):
            began = time.perf_counter()
            sent = app.ask(command, returns=int)
            self._row(f"{name}: nothing to do", Trigger.objects.count(), sent, time.perf_counter() - began, idle=True)

    def _time(self, command: Command, done: Callable[[], bool], what: str) -> float:
        from triggers.tasks import app

        began = time.perf_counter()
        app.send(command)
        self._stage.wait_for(done, what, 600.0)
        seconds = time.perf_counter() - began
        self._stage.wait_for(self._stage.idle, "the workers to be done")  # what is not settled yet would be refused as a double
        return seconds

    def _row(self, sweep: str, triggers: int, items: int, seconds: float, *, idle: bool = False) -> None:
        must = max(0.1, triggers / 3600) if idle else max(2.0, triggers / 60)
        verdict = "" if seconds <= must else ", missed"
        self._table.add_row(sweep, str(triggers), str(items), f"{seconds:.2f} s", f"≤ {must:.3g} s{verdict}")
        self._console.print(f"[bold]{sweep}[/]")
        lines = self.log()[self._lines :]
        self._lines += len(lines)
        for line in lines[:8]:
            self._console.print(f"  {line}", style="dim", highlight=False, markup=False, no_wrap=True, overflow="ellipsis")
        more = f"  … {len(lines) - 8} more lines" if len(lines) > 8 else "" if lines else "  (nothing was logged)"
        if more:
            self._console.print(more, style="dim")

    def log(self) -> list[str]:
        """Return the lines of the project's log."""
        file = self._stage.folder / "triggers.log"
        return file.read_text().splitlines() if file.exists() else []

    def _expected(self) -> Counter[str]:
        """Return how many items each service must have: a link that comes from two feeds is one at Pocket."""
        from triggers.models import Item

        services = Counter(
            name.removeprefix("Service").lower() for name in Item.objects.values_list("trigger__account__service", flat=True)
        )
        links = Item.objects.filter(trigger__account__service="ServicePocket").values_list("trigger__account", "link", "title")
        services["pocket"] = len({(account, link or title) for account, link, title in links})
        return services

    def wrong(self) -> list[str]:
        """Return what is not as it must be: each item handed over once, and a sentence at each trigger that has trouble."""
        from triggers.models import Item, Trigger

        journal = self._stage.journal()
        handed = Counter(taken["service"] for taken in journal["taken"])
        expected = self._expected()
        counted = sum(int(found[5]) for line in self.log() if (found := _LINE.fullmatch(line)))
        items = Item.objects.count()
        found = list[str]()
        if items != counted or Item.objects.filter(done_at=None).exists():
            found.append(f"{items} items are in the database, and {counted} are in the log")
        if handed != expected or journal["repeated"] != items - expected.total() or journal["refused"]:
            found.append(f"services took {dict(handed)} in place of {dict(expected)}, and refused {journal['refused']} calls")
        if odd := [line for line in self.log() if " INFO " in line and not _LINE.fullmatch(line)]:
            found.append(f"the log has other lines: {odd[0]}")
        troubled = Trigger.objects.exclude(trouble="")
        self._console.print(self._table)
        self._console.print(f"handed over        {dict(handed)}, nothing twice")
        self._console.print(f"feeds              asked {journal['asked']} times, unchanged {journal['unchanged']} times")
        self._console.print(f"with trouble       {troubled.count()} triggers; the others went on:")
        for trigger in troubled[:6]:
            said = f"                   {trigger.name}: {trigger.trouble}"
            self._console.print(said, highlight=False, markup=False, no_wrap=True, overflow="ellipsis")
        return found


def subscriptions(feeds: Path) -> list[str]:
    """Return the names of real subscriptions, where a list of them is at hand."""
    lists = sorted(feeds.rglob("foxmask*.opml"))
    return [str(found) for found in re.findall(r'type="rss" text="([^"&]{3,40})"', lists[0].read_text())] if lists else []


def play(stage: Stage, console: Console, count: int, seconds: float) -> list[str]:
    """Sweep a few times, and return what is wrong at the end."""
    from triggers.tasks import app

    demo = Demo(stage, console)
    stage.control(seconds=seconds)
    for so_many in sorted({min(count, _TRIGGERS), count}):
        demo.people(so_many)
        demo.fetch("every feed for the first time" if so_many <= _TRIGGERS else "those of all users")
        demo.publish("the newest of each")
        demo.fetch("nothing is new")
        demo.idle()
    demo.grow()
    demo.fetch(f"{_BUSY} sources are busy")
    demo.publish("what they had")
    app.close()
    return demo.wrong()


def _end(number: int, _: object) -> None:
    """End in order, with everything that was started."""
    sys.exit(128 + number)


def main() -> None:
    """Run the demo; the exit code is 0 only if everything is as it must be."""
    options = options_of(__doc__, "file", "postgres")
    options.add_argument("--triggers", type=int, default=_TRIGGERS, help="how many there are; more than 61 are swept after the first 61")
    options.add_argument("--seconds", type=float, default=_CALL, help="how long each call takes")
    chosen = options.parse_args()
    signal.signal(signal.SIGTERM, _end)
    console = Console(width=None if sys.stdout.isatty() else 130)
    folder = (chosen.folder or Path(tempfile.mkdtemp(prefix="chappe-triggers-"))).resolve()
    with servers(chosen.broker, folder, console) as urls, Stage(folder, urls=urls) as stage:
        console.print(f"starting the feeds of {stage.feeds}, four services and chappe run …")
        stage.start_stand_ins()
        stage.start_chappe()
        os.environ.update(stage.environment())
        django.setup()
        wrong = play(stage, console, chosen.triggers, chosen.seconds)
        for fault in wrong:
            console.print(f"[bold red]wrong[/]              {fault}")
        console.print("\nlook at next       examples/triggers/README.md · models.py · tasks.py · admin.py")
        console.print(f"what was logged    {folder}/triggers.log")
        if chosen.keep:
            stage.start_web()
            console.print(
                f"\n[bold]left running[/] at {stage.web_url}/admin/ (admin, password admin), {stage.gateway_url}/api/queues; Ctrl-C ends it"
            )
            leave_running(console)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
