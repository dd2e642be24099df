"""What `GET /events` does as Durable Streams has it, and its public suite does not ask."""

import json
from typing import Any

import pytest

from chappe.web import live

from ..test_live import Door, amount, door

__all__ = ["door"]


async def test_m4_a_page_that_a_client_has_already_is_not_sent_again(door: Door) -> None:
    await door.raise_bids(1)
    first = await door.http.get(f"{door.url}?offset=-1")
    known = {"If-None-Match": first.headers["etag"]}
    again = await door.http.get(f"{door.url}?offset=-1", headers=known)
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", first.headers["etag"])
    await door.raise_bids(2)
    assert (await door.http.get(f"{door.url}?offset=-1", headers=known)).status_code == 200


@pytest.mark.parametrize("query", ["offset=", "offset=0,1", "offset=1&offset=2", "offset=now&offset=now"])
async def test_an_offset_that_is_none_is_refused_as_durable_streams_has_it(door: Door, query: str) -> None:
    assert (await door.http.get(f"{door.url}?{query}")).status_code == 400


async def test_m4_who_asks_for_an_offset_hears_the_events_of_durable_streams(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "AT_ONCE", 2)
    await door.raise_bids(1, 2, 3)
    told: list[tuple[str, Any]] = []
    async with door.http.stream("GET", f"{door.url}?live=sse&offset=-1&cursor=99999999999") as answer:
        assert answer.headers["content-type"] == "text/event-stream"
        kind = ""
        async for line in answer.aiter_lines():
            name, _, value = line.partition(":")
            kind = value.strip() if name == "event" else kind
            if name == "data":
                told.append((kind, json.loads(value)))
            if len(told) == 6:
                await door.raise_bids(4, 5)
            if len(told) == 10:
                break
    data, control = told[::2], [said for _, said in told[1::2]]
    assert [(kind, amount(event)) for kind, (event,) in data] == [("data", n) for n in (1, 2, 3, 4, 5)]
    assert [said["streamNextOffset"] for said in control] == [f"{n:018d}" for n in (1, 2, 3, 4, 5)]
    assert [said.get("upToDate", False) for said in control] == [False, False, True, False, True]
    assert all(said["streamCursor"] == "100000000000" for said in control[:3])
