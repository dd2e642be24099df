"""Wrong tokens are told, counted and slowed, and hold no more than a bound."""

import asyncio
from pathlib import Path

import pytest

from chappe.web import wrong_tokens
from chappe.web.wrong_tokens import FREE, MOST_WAITING, WAIT, WrongTokens

from .shop import TOKEN, opened


async def test_the_first_mistakes_are_answered_at_once_and_those_that_follow_wait(caplog: pytest.LogCaptureFixture) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    times = iter([0.0] * 30 + [61.0])
    wrong = WrongTokens(lambda: next(times), sleep)
    for _ in range(30):
        await wrong.slow("127.0.0.1")
    assert slept == [WAIT] * (30 - FREE)
    await wrong.slow("::1")
    assert slept == [WAIT] * (30 - FREE), "a new minute begins"
    assert [record.getMessage() for record in caplog.records] == [
        "a request came with a wrong token, from 127.0.0.1",
        "a request came with a wrong token, from ::1; 30 in the minute before that",
    ]


async def test_no_more_than_a_bound_wait() -> None:
    never = asyncio.Event()

    async def sleep(_: float) -> None:
        await never.wait()

    wrong = WrongTokens(lambda: 0.0, sleep)
    for _ in range(FREE):
        await wrong.slow("x")
    waiting = [asyncio.ensure_future(wrong.slow("x")) for _ in range(MOST_WAITING)]
    await asyncio.sleep(0)
    assert await wrong.slow("x"), "there is no place for it"
    assert not any(task.done() for task in waiting)
    never.set()
    assert not any(await asyncio.gather(*waiting))


async def test_wrong_tokens_beyond_the_bound_are_turned_away_with_429(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wrong_tokens, "FREE", 0)
    monkeypatch.setattr(wrong_tokens, "MOST_WAITING", 0)
    async with opened(tmp_path, token=TOKEN) as shop:
        answer = await shop.client.get("/api/queues", headers={"Authorization": "Bearer guess"})
        assert (answer.status_code, answer.headers["retry-after"], answer.headers["connection"]) == (429, "1", "close")
        assert (await shop.client.get("/api/queues", headers={"Authorization": f"Bearer {TOKEN}"})).status_code == 200


async def test_wrong_tokens_are_counted_and_the_right_one_waits_for_none_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wrong_tokens, "WAIT", 3600.0)
    async with opened(tmp_path, token=TOKEN) as shop:
        for _ in range(FREE):
            assert (await shop.client.get("/api/queues", headers={"Authorization": "Bearer guess"})).status_code == 401
        held = asyncio.ensure_future(shop.client.get("/api/queues", headers={"Authorization": "Bearer guess"}))
        await asyncio.sleep(0)
        metrics = (await shop.client.get("/metrics")).text
        assert not held.done()
        held.cancel()
    assert f'chappe_http_requests_total{{route="api",status="401"}} {FREE}.0' in metrics
