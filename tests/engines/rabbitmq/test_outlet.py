"""A send ends by its deadline, however it is spent: connecting and waiting for a confirmation share it."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

import pytest

from chappe.engines.rabbitmq.address import Address
from chappe.engines.rabbitmq.link import Link
from chappe.engines.rabbitmq.outlet import Outlet, outgoing
from chappe.errors import Unconfirmed
from chappe.messages.envelope import Envelope, Publication
from tests.servers.rabbitmq import RabbitNode

_DEADLINE = 2.0


@pytest.mark.proof
async def test_a_send_whose_connection_took_most_of_its_deadline_waits_only_for_the_rest(
    node: RabbitNode, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opens = Link.open

    async def slowly(address: Address, **fields: Any) -> Link:
        await asyncio.sleep(0.7 * _DEADLINE)  # the time that a server takes
        link = await opens(address, **fields)
        os.kill(node.pid, signal.SIGSTOP)
        return link

    monkeypatch.setattr(Link, "open", slowly)
    outlet = Outlet(Address.parse(node.url), name="test", deadline=_DEADLINE)
    loop = asyncio.get_running_loop()
    began = loop.time()
    try:
        with pytest.raises(Unconfirmed):
            await outlet.publish([outgoing(Publication(Envelope("a", "t", b"{}"), queue))], known=True)
    finally:
        os.kill(node.pid, signal.SIGCONT)
        await outlet.close()
    assert _DEADLINE - 0.1 < loop.time() - began < _DEADLINE + 1.2
