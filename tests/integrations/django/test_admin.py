"""The section in the admin: queues, and dead letters with retry and discard, each for those who may."""

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.urls import reverse

from chappe.errors import BrokerUnavailable
from chappe.integrations.django import admin
from chappe.testing import Trial

from . import called

QUEUES, LETTERS = "admin:chappe_queue_changelist", "admin:chappe_deadletter_changelist"


@pytest.fixture
def browser(t: Trial) -> Callable[..., Client]:
    def log_in(*permissions: str) -> Client:
        user = User.objects.create_user("user", is_staff=True)
        user.user_permissions.set(Permission.objects.filter(content_type__app_label="chappe", codename__in=permissions))
        client = Client(enforce_csrf_checks=False)
        client.force_login(user)
        return client

    return log_in


def died(t: Trial, count: int = 1) -> list[int]:
    for number in range(count):
        called.failing.enqueue(f"<script>why {number}</script>")
    t.drain()
    return [letter.number for letter in t.dead]


def test_the_queues_are_shown_with_what_waits_and_what_is_dead(t: Trial, browser: Callable[..., Client]) -> None:
    died(t)
    called.noop.enqueue()
    page = browser("view_queue").get(reverse(QUEUES))
    text = " ".join(page.content.decode().split())
    assert page.status_code == 200
    assert (
        '<th scope="row">tasks.default</th><td>1</td><td>0</td><td>0</td> <td><a href="/admin/chappe/deadletter/?queue=tasks.default">1</a>'
        in text
    )
    assert '<th scope="row">triggers:fetch.all:every(780)</th><td>fetch.all</td>' in text


def test_a_dead_letter_is_shown_with_its_error_and_nothing_of_it_is_markup(t: Trial, browser: Callable[..., Client]) -> None:
    died(t)
    page = browser("view_deadletter").get(reverse(LETTERS)).content.decode()
    assert "ValueError: &lt;script&gt;why 0" in page
    assert "<script>why" not in page
    assert "Retry" not in page
    assert "Discard" not in page


def test_dead_letters_are_retried_by_who_may_change_them(t: Trial, browser: Callable[..., Client]) -> None:
    first, second = died(t, 2)
    client = browser("view_deadletter", "change_deadletter")
    done = client.post(reverse(LETTERS), {"verb": "retry", "number": [str(first)]}, follow=True)
    assert "1 dead letter is ready again." in done.content.decode()
    assert [letter.number for letter in t.dead] == [second]
    assert t.depth("tasks.default") == (1, 0)
    assert client.post(reverse(LETTERS), {"verb": "discard", "number": [str(second)]}).status_code == 403
    assert [letter.number for letter in t.dead] == [second]


def test_dead_letters_are_discarded_by_who_may_delete_them(t: Trial, browser: Callable[..., Client]) -> None:
    numbers = died(t, 2)
    client = browser("view_deadletter", "delete_deadletter")
    assert client.post(reverse(LETTERS), {"verb": "retry", "number": [str(n) for n in numbers]}).status_code == 403
    client.post(reverse(LETTERS), {"verb": "discard", "number": [str(n) for n in numbers]})
    assert t.dead == []


@pytest.mark.parametrize("permissions", [(), ("view_call",), ("view_queue",)])
def test_who_may_not_look_does_not(t: Trial, browser: Callable[..., Client], permissions: tuple[str, ...]) -> None:
    client = browser(*permissions)
    assert client.get(reverse(LETTERS)).status_code == 403
    assert client.post(reverse(LETTERS), {"verb": "retry", "number": ["1"]}).status_code == 403
    assert (client.get(reverse(QUEUES)).status_code == 200) == ("view_queue" in permissions)


@pytest.mark.parametrize("query", ["?after=x", "?after=-1", "?after=99999999999999999999", "?queue=none", "?after=١"])
def test_odd_addresses_show_an_empty_or_whole_list(t: Trial, browser: Callable[..., Client], query: str) -> None:
    died(t)
    assert browser("view_deadletter").get(reverse(LETTERS) + query).status_code == 200


def test_numbers_that_are_none_are_left_out(t: Trial, browser: Callable[..., Client]) -> None:
    client = browser("view_deadletter", "change_deadletter")
    done = client.post(reverse(LETTERS), {"verb": "retry", "number": ["x", "-1", "", "9" * 30, "12345"]}, follow=True)
    assert "0 dead letters are ready again." in done.content.decode()


def test_an_engine_that_does_not_answer_is_said_on_the_page(
    t: Trial, browser: Callable[..., Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(_: Any) -> None:
        raise BrokerUnavailable("nobody answers at chappe.db")

    client = browser("view_queue", "view_deadletter", "change_deadletter")
    monkeypatch.setattr(admin, "_ask", away)
    assert "nobody answers at chappe.db" in client.get(reverse(QUEUES)).content.decode()
    assert "nobody answers" in client.post(reverse(LETTERS), {"verb": "retry", "number": ["1"]}, follow=True).content.decode()


def test_the_pages_of_the_index_and_of_calls_open(t: Trial, browser: Callable[..., Client]) -> None:
    called.noop.enqueue()
    client = browser("view_queue", "view_call", "view_outbox", "view_deadletter")
    for name in ("admin:index", "admin:chappe_call_changelist", "admin:chappe_outbox_changelist"):
        assert client.get(reverse(name)).status_code == 200
    assert client.get(reverse("admin:chappe_call_change", args=[called.noop.enqueue().id])).status_code == 200
