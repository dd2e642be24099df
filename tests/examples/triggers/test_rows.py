"""The rows of the story, T1 to T25, on the example itself; those about real processes are in test_demo.py."""

import datetime
import re
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import httpx2
import pytest
from django.db import transaction
from django.db.models.sql.compiler import SQLCompiler
from django.utils import timezone

from chappe import every
from chappe.testing import testing
from triggers import tasks
from triggers.demo import _LINE
from triggers.models import Account, Item, Trigger
from triggers.tasks import Fetch, FetchAll, LookAfter, Publish, PublishAll, Recycle, app

from .conftest import SAMPLE, World, feeds_in

NEWS = [path.name for path in feeds_in(SAMPLE)].index("news.rss")
ROOT = Path(__file__).resolve().parents[3]


def test_t1_only_active_triggers_of_active_users_run(world: World) -> None:
    world.trigger()
    world.trigger("software.atom", is_active=False)
    world.trigger("old.rdf", world.account(user=world.user("gone", is_active=False)))
    world.sweep()
    assert [one.trigger for one in world.t.sent(Fetch)] == [Trigger.objects.get(name="news.rss").pk]
    assert Counter(Item.objects.values_list("trigger__name", flat=True)) == {"news.rss": 1}


def test_t1_a_trigger_that_is_switched_off_between_the_sweeps_publishes_nothing_and_goes_on_when_it_is_on(world: World) -> None:
    trigger = world.trigger()
    world.t.send(FetchAll(at_once=True))
    world.t.drain()
    Trigger.objects.update(is_active=False)
    world.sweep()
    assert world.taken == []
    Trigger.objects.filter(pk=trigger.pk).update(is_active=True)
    world.sweep()
    assert len(world.taken) == 1


def test_t2_two_sweeps_of_which_one_fills_the_cache_and_the_other_drains_it(world: World) -> None:
    scheduled = {type(one.message): one.trigger for one in app.schedules}
    assert (scheduled[FetchAll], scheduled[PublishAll]) == (every(13 * 60), every(15 * 60))
    world.trigger()
    world.t.send(FetchAll())
    world.t.drain()
    assert (Item.objects.filter(done_at=None).count(), world.taken) == (1, [])
    world.t.send(PublishAll())
    world.t.drain()
    assert (Item.objects.filter(done_at=None).count(), len(world.taken)) == (0, 1)


@pytest.mark.parametrize("command", [FetchAll(), PublishAll()])
def test_t5_a_sweep_with_nothing_to_do_is_one_query_and_sends_and_says_nothing(
    world: World, command: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.trigger()
    world.sweep()
    caplog.clear()
    sent = world.t._stored.copy()
    queries: list[str] = []
    real = SQLCompiler.execute_sql

    def noted(compiler: Any, *given: Any, **options: Any) -> Any:
        queries.append(str(compiler.query))
        return real(compiler, *given, **options)

    monkeypatch.setattr(SQLCompiler, "execute_sql", noted)
    assert world.t.ask(command) == 0
    assert len(queries) == 1
    assert [one.type for one in world.t._stored[len(sent) :]] == [command.__spec__.name]
    assert [record for record in caplog.records if record.name == "triggers"] == []


def test_t7_a_sweep_that_takes_too_long_is_a_warning_and_what_it_left_is_not_lost(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.trigger()
    late = world.trigger("software.atom")
    began = timezone.now()
    Trigger.objects.exclude(pk=late.pk).update(checked_at=began)
    world.t.send(LookAfter(began=began, triggers=[trigger.pk for trigger in Trigger.objects.all()]))
    world.t.drain()
    (record,) = [record for record in caplog.records if record.name == "triggers"]
    assert (record.levelname, record.getMessage()) == ("WARNING", "1 of 2 triggers took longer than 360 s: software.atom")
    world.sweep()
    assert Item.objects.filter(trigger=late, done_at__isnull=False).count() == 1


def test_t7_a_sweep_in_time_says_nothing(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.trigger()
    world.sweep()
    world.t.advance(tasks.SWEEP + 1)
    world.t.drain()
    assert len(world.t.sent(LookAfter)) >= 1
    assert [record for record in caplog.records if record.levelname == "WARNING"] == []


def test_t15_it_is_as_short_as_the_answer_of_the_standard_library() -> None:
    page = (ROOT / "docs" / "how-to" / "django.md").read_text()
    (block,) = re.findall(r"```python\n# triggers/tasks\.py\n(.*?)```", page, re.DOTALL)
    lines = [line for line in block.splitlines() if line.strip()]
    assert len(lines) <= 9
    assert all(len(line) <= 100 and ";" not in line for line in lines)
    assert {"app.send(", "app.schedule(", "app.task"} <= {found for found in ("app.send(", "app.schedule(", "app.task") if found in block}


def test_t17_the_number_of_processes_is_one_setting_of_each_pool() -> None:
    pools = tomllib.loads((ROOT / "examples" / "triggers" / "chappe.toml").read_text())["pools"]
    assert all(isinstance(pool["processes"], int) for pool in pools.values())


@pytest.mark.parametrize("service", ["ServicePocket", "ServiceTrello", "ServiceMastodon", "ServiceWebhook"])
def test_t18_an_account_that_was_called_too_often_is_left_alone_until_its_service_says(world: World, service: str) -> None:
    account = world.account(service)
    other = world.account("ServiceWebhook", world.user("other"))
    for number in range(3):
        world.backlog(world.trigger(account=account, name=f"http://feeds/gone#{number}"), 5)
    world.backlog(world.trigger(account=other, name="http://feeds/gone"), 5)
    world.allow(7)
    for _ in range(4):
        world.t.send(PublishAll())
        world.t.drain()
    account.refresh_from_db()
    assert world.counts["refused"] == 1
    assert Item.objects.filter(trigger__account=account, done_at__isnull=False).count() == 7
    assert Item.objects.filter(trigger__account=other, done_at__isnull=False).count() == 5
    left = (account.closed_until - timezone.now()).total_seconds()
    assert 850 < left < 910
    world.allow(1000)
    Account.objects.update(closed_until=timezone.now())
    world.t.advance(910)
    for _ in range(3):
        world.t.send(PublishAll())
        world.t.drain()
    assert Item.objects.filter(done_at=None).count() == 0
    assert world.counts["repeated"] == 0


def test_t19_a_backlog_of_31_leaves_as_five_in_each_sweep_and_a_restart_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    from ...django_project import empty

    empty()
    caplog.set_level("INFO")
    left: list[int] = []
    for sweeps in (3, 4):  # another engine and another worker, of which nothing is remembered but the rows
        with testing(app) as trial:
            world = World(trial)
            if not left:
                world.backlog(world.trigger(), 31)
            for _ in range(sweeps):
                trial.send(PublishAll())
                trial.drain()
                left.append(len(world.taken))
    done = [right - before for before, right in zip([0, *left[:2], 0, *left[3:6]], left, strict=True)]
    assert done == [5, 5, 5, 5, 5, 5, 1]
    assert [int(found[5]) for record in caplog.records if (found := _LINE.fullmatch(_formatted(record)))] == done


def _formatted(record: Any) -> str:
    return f"2016-04-13 13:26:02,928 {record.levelname} {record.module} {record.process} {record.getMessage()}"


def test_t20_a_line_tells_the_user_the_source_the_service_the_trigger_and_how_many(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    world.trigger(account=world.account("ServiceTrello"))
    world.sweep()
    lines = [_formatted(record) for record in caplog.records if record.name == "triggers"]
    assert [found and found.groups() for found in map(_LINE.fullmatch, lines)] == [
        ("foxmask", "ServiceRss", "ServiceTrello", "news.rss", "1")
    ]


def test_t21_the_cache_is_recycled_by_a_schedule_with_a_line_and_what_was_published_stays_published(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    world.trigger()
    world.sweep()
    Item.objects.update(done_at=timezone.now() - datetime.timedelta(days=40))
    assert any(isinstance(one.message, Recycle) for one in app.schedules)
    world.t.send(Recycle())
    world.t.drain()
    assert Item.objects.count() == 0
    assert "recycle of cache done!" in [record.getMessage() for record in caplog.records]
    world.sweep()
    assert (Item.objects.count(), len(world.taken)) == (0, 1)


def test_t22_what_fails_for_one_stops_nobody_else_and_has_a_sentence(world: World) -> None:
    sound = world.trigger()
    urls = ("http://feeds/gone", "http://feeds/nowhere", "nonsense", "http://feeds/feeds/5")
    broken = [world.trigger(name=f"/{number}", url=url) for number, url in enumerate(urls)]
    sad = world.trigger("old.rdf", world.account("ServicePocket"))
    Account.objects.filter(pk=sad.account.pk).update(address="http://services/no-such-service")
    world.sweep()
    troubles = dict(Trigger.objects.values_list("pk", "trouble"))
    assert troubles[sound.pk] == ""
    assert all(troubles[one.pk] for one in broken)
    assert troubles[sad.pk].startswith("ServicePocket answered 404")
    assert (len(world.taken), world.t.dead) == (1, [])
    assert Item.objects.filter(trigger=sad, done_at=None).count() == 1  # it waits


@pytest.mark.parametrize("service", ["ServicePocket", "ServiceTrello", "ServiceMastodon", "ServiceWebhook"])
def test_t23_a_call_that_was_cut_off_after_the_service_took_it_is_not_a_second_item(
    world: World, service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.trigger(account=world.account(service))
    world.t.send(FetchAll(at_once=True))
    world.t.drain()
    real = tasks.hand_over

    async def dies(*given: Any) -> None:
        await real(*given)
        raise SystemExit("killed before it wrote it down")

    monkeypatch.setattr(tasks, "hand_over", dies)
    world.t.send(PublishAll())
    world.t.drain()
    assert (len(world.taken), Item.objects.filter(done_at=None).count()) == (1, 1)
    monkeypatch.setattr(tasks, "hand_over", real)
    world.t.drain(to_the_end=True, slots=0)
    assert (len(world.taken), Item.objects.filter(done_at=None).count()) == (1, 0)


def test_t23_a_poll_that_is_cut_off_keeps_neither_items_nor_what_is_known_of_the_feed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    trigger = world.trigger()
    with monkeypatch.context() as patched:
        patched.setattr("django.db.models.query.QuerySet.update", _dies)
        world.t.send(Fetch(trigger=trigger.pk))
        world.t.drain()
    trigger.refresh_from_db()
    assert (Item.objects.count(), trigger.state) == (0, "")
    world.t.drain(to_the_end=True, slots=0)
    world.sweep()
    world.sweep()
    assert (Item.objects.count(), len(world.taken), world.counts["unchanged"]) == (1, 1, 2)


def _dies(*_: Any, **__: Any) -> None:
    raise SystemExit("killed in the middle")


def test_t23_everything_that_was_new_while_nothing_ran_is_published_once_and_in_order(world: World) -> None:
    world.trigger()
    world.sweep()
    world.grow(NEWS, "first", "second", "third")
    for _ in range(3):
        world.sweep()
    assert world.taken[1:] == ["first", "second", "third"]
    assert world.counts["repeated"] == 0


def test_t24_a_row_that_is_deleted_while_its_message_waits_ends_it_quietly(world: World) -> None:
    trigger = world.trigger()
    world.t.send([Fetch(trigger=trigger.pk), Publish(trigger=trigger.pk, account=trigger.account.pk)])
    with transaction.atomic():
        trigger.delete()
    world.t.drain()
    assert (world.t.dead, world.taken) == ([], [])


def test_t25_a_busy_source_is_asked_more_often_than_a_quiet_one(world: World) -> None:
    busy, quiet = world.trigger(), world.trigger("old.rdf")
    world.sweep()
    for number in range(40):
        world.grow(NEWS, f"news {number}")
    world.sweep()
    Trigger.objects.update(next_check=timezone.now() - datetime.timedelta(seconds=1))
    world.sweep(at_once=False)
    busy.refresh_from_db()
    quiet.refresh_from_db()
    now = timezone.now()
    assert datetime.timedelta(hours=3) < busy.next_check - now < datetime.timedelta(hours=6)
    assert quiet.next_check - now > datetime.timedelta(hours=20)
    asked = world.counts["asked"]
    world.sweep(at_once=False)
    assert world.counts["asked"] == asked  # nobody is due


@pytest.mark.filterwarnings("ignore:The default scheme will be changed")
def test_fire_now_asks_and_publishes_without_waiting_for_a_sweep(world: World) -> None:
    from django.contrib.auth.models import User
    from django.test import Client

    User.objects.create_superuser("admin", None, "admin")
    trigger = world.trigger()
    browser = Client()
    browser.force_login(User.objects.get(username="admin"))
    done = browser.post("/admin/triggers/trigger/", {"action": "fire_now", "_selected_action": [trigger.pk]}, follow=True)
    assert "1 triggers are fired." in done.content.decode()
    world.t.drain()
    assert len(world.taken) == 1


def test_a_feed_that_moved_for_good_is_asked_at_its_new_address(world: World) -> None:
    trigger = world.trigger(name="/moved", url=f"http://feeds/moved/{NEWS}")
    world.sweep()
    trigger.refresh_from_db()
    assert trigger.url == f"http://feeds/feeds/{NEWS}"
    world.sweep()
    assert len(world.taken) == 1


def test_another_address_is_another_feed(world: World) -> None:
    trigger = world.trigger()
    world.sweep()
    Trigger.objects.filter(pk=trigger.pk).update(url="http://feeds/feeds/2")
    world.sweep()
    assert len(world.taken) == 2


async def test_a_stand_in_refuses_as_its_service_does(world: World) -> None:
    world.allow(0)
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=world.stand_ins.app()), base_url="http://x") as http:
        refused = await http.post("/pocket/v3/add", json={"url": "http://a", "title": "a", "access_token": "t"})
    assert (refused.status_code, refused.headers["x-error"]) == (403, "User Limit Reached")
