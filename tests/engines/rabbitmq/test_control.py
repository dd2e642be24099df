"""The connection over which sessions ask each other: whoever closes it leaves none open."""

from __future__ import annotations

import pytest

from chappe.engines.rabbitmq.address import Address
from chappe.engines.rabbitmq.control import Control, Held, Question
from chappe.engines.rabbitmq.link import Link

from ...servers.shared import Vhost
from ...waiting import auntil


async def test_a_connection_that_is_opened_again_while_the_lost_one_says_goodbye_is_closed_too(
    rabbit: Vhost, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Link] = []

    async def open_link() -> Link:
        opened.append(await Link.open(Address.parse(rabbit.url), name="test", deadline=60.0, confirms=False))
        return opened[-1]

    async def nothing(question: Question) -> Held:
        return Held(question.id, 0)

    control = Control(open_link, nothing)
    control.keep()
    lost = await control.link()
    close = lost.close

    async def slowly() -> None:
        await auntil(lambda: control._link is not lost or not control._tasks, "another connection, or nobody who opens one")
        await close()

    monkeypatch.setattr(lost, "close", slowly)
    control.cut()
    await auntil(lambda: control._tasks, "somebody who connects again")
    await control.close()
    assert all(link.ended.done() for link in opened)
