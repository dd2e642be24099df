"""Connections to the databases of a project are closed around handlers, in the threads that have them."""

import threading
import time

import pytest
from asgiref.sync import sync_to_async
from django.db import connection

from chappe import App, Command
from chappe.integrations.django.connections import Connections
from chappe.testing import testing


class Look(Command):
    number: int


def application() -> tuple[App, list[tuple[int, object]]]:
    app, seen = App("connections"), list[tuple[int, object]]()
    app.use(Connections())
    return app, seen


def look() -> tuple[int, object]:
    """Use the connection of this thread, and have it be too old for the next."""
    with connection.cursor() as cursor:
        cursor.execute("select 1")
    raw = connection.connection
    connection.close_at = time.monotonic() - 1
    return threading.get_ident(), raw


def test_a_handler_in_a_thread_does_not_get_the_connection_that_the_one_before_left() -> None:
    app, seen = application()

    @app.handles(Look)
    def handle(_: Look) -> None:
        seen.append(look())

    with testing(app) as t:
        t.send(Look(number=1))
        t.send(Look(number=2))
        t.drain()
    (thread, first), (other, second) = seen
    assert (thread == other, first is second) == (True, False)


def test_a_handler_on_the_loop_does_not_get_the_connection_that_the_one_before_left() -> None:
    app, seen = application()

    @app.handles(Look)
    async def handle(_: Look) -> None:
        seen.append(await sync_to_async(look)())

    with testing(app) as t:
        t.send(Look(number=1))
        t.send(Look(number=2))
        t.drain()
    (thread, first), (other, second) = seen
    assert (thread == other, first is second) == (True, False)


@pytest.mark.parametrize("is_async", [True, False])
def test_a_handler_that_fails_leaves_nothing_behind_either(is_async: bool) -> None:
    app, seen = application()

    def fail(_: Look) -> None:
        seen.append(look())
        raise ValueError

    async def afail(_: Look) -> None:
        seen.append(await sync_to_async(look)())
        raise ValueError

    app.handles(Look)(afail if is_async else fail)
    with testing(app) as t:
        t.send(Look(number=1))
        t.drain()
        t.advance(2.0)
        t.drain()
    assert seen[0][1] is not seen[1][1]
