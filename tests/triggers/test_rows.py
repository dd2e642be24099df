"""Rows of the triggers that are about an application as a whole, each named by its number."""

from __future__ import annotations

import asyncio
import tomllib
from pathlib import Path

from chappe import App, Budget, Command, Retry
from chappe.testing import testing

ROOT = Path(__file__).parents[2]


class Publish(Command, queue="publish", retry=Retry(1)):
    user: int
    trigger: int = 0


class Post(Command, queue="posts", budget=Budget("pocket:{user}", "1/h"), ttl=3 * 3600.0):
    user: int
    number: int


def test_t3_t4_61_triggers_that_wait_for_somebody_else_are_under_way_at_once_in_one_process() -> None:
    app = App("sweep")
    under_way, all_begun = 0, asyncio.Event()

    @app.handles(Publish)
    async def publish(_: Publish) -> None:
        nonlocal under_way
        under_way += 1
        if under_way == 61:
            all_begun.set()
        await all_begun.wait()

    with testing(app, concurrency=61) as t:
        t.app.send([Publish(user=n) for n in range(61)])
        assert t.drain(timeout=60.0) == 61


def test_t6_t22_3600_triggers_of_60_users_are_handled_though_one_user_fails_at_each() -> None:
    app = App("sweep")
    done: dict[int, int] = {}

    @app.handles(Publish)
    async def publish(command: Publish) -> None:
        if command.user == 7:
            raise ConnectionError("the provider of this user is away")
        done[command.user] = done.get(command.user, 0) + 1

    with testing(app, concurrency=16) as t:
        t.app.send([Publish(user=user, trigger=trigger) for trigger in range(60) for user in range(60)])
        assert t.drain(timeout=120.0) == 3600
        assert done == {user: 60 for user in range(60) if user != 7}
        assert {letter.reason for letter in t.dead} == {"attempts spent"}


def test_t19_what_waited_for_its_budget_longer_than_it_is_worth_sending_is_expired_and_takes_nothing_of_it() -> None:
    app = App("poster")
    posted: list[int] = []

    @app.handles(Post)
    async def post(command: Post) -> None:
        posted.append(command.number)

    with testing(app) as t:
        t.app.send([Post(user=1, number=n) for n in range(10)])
        t.drain(to_the_end=True)
        assert posted == [0, 1, 2, 3]
        assert len(t.dead) == 6
        assert all(letter.reason.startswith("expired") for letter in t.dead)


def test_t11_t14_nothing_but_python_is_needed_and_no_server_is_among_what_is_installed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"].startswith(">=3")
    assert not [one for one in project["dependencies"] if one.startswith(("psycopg", "pika", "redis", "celery"))]
