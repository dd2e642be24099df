"""The portal: an event loop in a thread for callers that have none."""

import asyncio
import threading

import pytest

from chappe.bus.portal import Portal
from chappe.errors import DefinitionError


async def nothing() -> None: ...


def test_a_coroutine_runs_in_the_portals_thread_and_gives_its_result_or_error() -> None:
    portal = Portal()

    async def where() -> str:
        await asyncio.sleep(0)
        return threading.current_thread().name

    async def fail() -> None:
        raise OSError("told")

    assert portal.run(where()) == "chappe-portal"
    with pytest.raises(OSError, match="told"):
        portal.run(fail())
    portal.close(nothing())
    assert "chappe-portal" not in [t.name for t in threading.enumerate()]


def test_a_call_from_its_own_thread_is_refused_instead_of_hanging() -> None:
    portal = Portal()

    async def inside() -> None:
        portal.run(nothing())

    with pytest.raises(DefinitionError, match="asend, apublish or aask"):
        portal.run(inside())
    portal.close(nothing())
