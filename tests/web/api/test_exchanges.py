"""How much was published to exchanges and delivered to queues, as the overview tells it."""

from __future__ import annotations

from pathlib import Path

import pytest

from chappe import App, Event, Exchange

from ..shop import Open, opened


class News(Event, exchange=Exchange("news"), routing_key="news"):
    number: int


def newsroom(subscribers: int) -> App:
    app = App("newsroom")

    @app.on(News)
    async def first(event: News) -> None: ...

    if subscribers == 2:

        @app.on(News)
        async def second(event: News) -> None: ...

    return app


async def passed(shop: Open) -> list[int]:
    return (await shop.client.get("/api/overview")).json()["passed"].get("news", [0, 0])


@pytest.mark.parametrize("subscribers", [1, 2])
async def test_h8_with_one_subscriber_as_many_are_delivered_as_published_and_with_two_twice_as_many(
    tmp_path: Path, subscribers: int
) -> None:
    async with opened(tmp_path, make=lambda: newsroom(subscribers)) as shop:
        assert await passed(shop) == [0, 0]
        series: list[list[int]] = []
        for number in range(5):
            await shop.app.asend([News(number=number)] * 20)
            series.append(await passed(shop))
    assert series == [[20 * n, 20 * n * subscribers] for n in range(1, 6)]


async def test_a_double_that_is_not_stored_is_not_counted(tmp_path: Path) -> None:
    async with opened(tmp_path, make=lambda: newsroom(1)) as shop:
        for _ in range(2):
            await shop.app.asend(News(number=1), idempotency_key="one")
        assert await passed(shop) == [1, 1]
