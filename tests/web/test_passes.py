"""Short-lived tokens: what they let somebody hear and send, and that nothing else lets anybody in."""

# pyright: reportPrivateUsage=false

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jwt
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from chappe import Settings
from chappe.roles import Limits
from chappe.web import live
from chappe.web.passes import LONGEST, Passes, covers

from ..waiting import PATIENCE
from .test_live import Door, Keep, hear, opened

SECRET = "a secret of thirty-two characters, or as here of more than sixty-four"


def signed(secret: str = SECRET, algorithm: str = "HS256", **claims: Any) -> str:
    given = {"aud": "auction", "exp": time.time() + 600, "events": ["bid.*"], "commands": ["divide"], "sub": "ada"} | claims
    encode: Any = jwt.encode
    return encode({name: value for name, value in given.items() if value is not None}, secret, algorithm)


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def unsigned() -> str:
    """Return a token of the algorithm "none", with a signature that nobody made."""
    parts = [{"alg": "none", "typ": "JWT"}, {"aud": "auction", "exp": time.time() + 600, "events": ["#"], "commands": ["divide"]}]
    return ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts) + "."


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    async with opened(tmp_path, token_secret=SECRET) as door:
        yield door


async def test_a_token_lets_somebody_hear_its_topics_and_send_its_commands_and_nothing_else(door: Door) -> None:
    await door.raise_bids(1)
    place, own = door.url.removesuffix("/events"), bearer(signed())

    async def status(path: str, body: Any = None) -> int:
        answer = await (door.http.get(place + path, headers=own) if body is None else door.http.post(place + path, json=body, headers=own))
        return answer.status_code

    assert [told["body"]["amount"] for told in (await door.http.get(f"{door.url}?since=0", headers=own)).json()] == [1]
    for pattern in ("bid.*", "bid.raised"):
        assert await status(f"/events?pattern={pattern}") == 200
    for pattern in ("%23", "bid.%23", "*.raised", "note.left", "*"):
        assert await status(f"/events?pattern={pattern}") == 403
        assert await status(f"/events?live=sse&pattern={pattern}") == 403
        with pytest.raises(InvalidStatus, match="403"):
            await door.websocket(f"pattern={pattern}", additional_headers=own)
    assert await status("/commands/divide", {"a": 1, "b": 2}) == 200
    assert await status("/commands/keep", {"text": "x"}) == 403
    for path in ("/metrics", "/api/overview", "/batches/x"):
        assert await status(path) == 403
    kept = await door.app.asend(Keep(text="of somebody else"))
    assert await status(f"/messages/{kept.id}") == 404


@pytest.mark.parametrize(
    "token",
    [
        pytest.param(lambda: unsigned(), id="alg none"),
        pytest.param(lambda: signed(algorithm="HS512"), id="another algorithm"),
        pytest.param(
            lambda: signed(secret="another secret of thirty-two characters, or as here more than sixty-four"), id="another secret"
        ),
        pytest.param(lambda: signed(exp=time.time() - 1), id="expired"),
        pytest.param(lambda: signed(exp=None), id="without an end"),
        pytest.param(lambda: signed(exp=time.time() + 2 * LONGEST), id="not short-lived"),
        pytest.param(lambda: signed(exp=float("inf")), id="an end that never comes"),
        pytest.param(lambda: signed(nbf=time.time() + 600), id="not yet good"),
        pytest.param(lambda: signed(aud="another application"), id="of another audience"),
        pytest.param(lambda: signed(aud=None), id="without an audience"),
        pytest.param(lambda: signed(events="#"), id="topics that are no list"),
        pytest.param(lambda: signed(sub="x\ny"), id="a name with line breaks"),
        pytest.param(lambda: signed()[:-2], id="cut off"),
        pytest.param(lambda: "x.y.z", id="no token at all"),
        pytest.param(lambda: "", id="empty"),
    ],
)
def test_what_is_no_token_of_ours_lets_nobody_in(token: Any) -> None:
    assert Passes(SECRET, "auction").caller(f"Bearer {token()}".encode()) is None


async def test_what_is_no_token_of_ours_is_answered_with_401_on_every_door(door: Door) -> None:
    for token in (unsigned(), signed(exp=time.time() - 1)):
        assert (await door.http.get(door.url, headers=bearer(token))).status_code == 401
        assert (await door.http.get(f"{door.url}?live=sse", headers=bearer(token))).status_code == 401
        with pytest.raises(InvalidStatus, match="401"):
            await door.websocket(subprotocols=["chappe", f"bearer.{token}"])
    with pytest.raises(InvalidStatus, match="403"):  # nor does a good one from the page of somebody else
        await door.websocket(additional_headers=bearer(signed()), origin="https://evil.example")


async def test_a_token_without_topics_hears_nothing_and_one_without_commands_sends_none(door: Door) -> None:
    assert (await door.http.get(f"{door.url}?pattern=bid.*", headers=bearer(signed(events=[])))).status_code == 403
    place = door.url.removesuffix("events") + "commands/divide"
    assert (await door.http.post(place, json={"a": 1, "b": 1}, headers=bearer(signed(commands=[])))).status_code == 403


async def test_commands_over_a_socket_are_those_of_its_token(door: Door) -> None:
    async with door.websocket("pattern=bid.*", additional_headers=bearer(signed())) as socket:
        await hear(socket)
        for command, body, status in (("divide", {"a": 1, "b": 2}, 200), ("keep", {"text": "x"}, 403)):
            await socket.send(json.dumps({"command": command, "body": body}))
            assert (await hear(socket))["status"] == status


async def test_a_socket_and_a_stream_end_with_their_token(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    def soon(limits: Limits | None) -> float | None:
        return None if limits is None else 0.05

    monkeypatch.setattr(live, "_left", soon)
    async with asyncio.timeout(PATIENCE):
        async with door.websocket("pattern=bid.*", additional_headers=bearer(signed())) as socket:
            with pytest.raises(ConnectionClosed):
                while True:
                    await socket.recv()
            assert (socket.close_code, socket.close_reason) == (1008, "the token has ended")
        answer = await door.http.get(f"{door.url}?live=sse", headers=bearer(signed()))  # it ends
        assert answer.status_code == 200


def test_a_token_is_good_until_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chappe.web.live.time", SimpleNamespace(time=lambda: 1000.0))
    assert [live._left(Limits((), frozenset(), until)) for until in (1001.5, 999.0)] == [1.5, 0.0]
    assert live._left(None) is None


@pytest.mark.parametrize(
    ("topic", "within", "beyond"),
    [
        ("#", ["#", "a", "*.b", "a.#"], []),
        ("a.*", ["a.b", "a.*"], ["a", "a.b.c", "a.#", "*.b", "#", "b.a"]),
        ("a.#", ["a", "a.b", "a.b.c", "a.*", "a.#", "a.*.#"], ["b", "#", "#.a", "*"]),
        ("#.end", ["end", "a.end", "*.end", "#.end", "a.#.end"], ["end.a", "#", "*"]),
        ("a.b", ["a.b"], ["a.*", "*.b", "a", "a.b.c", "a.#", "#"]),
        ("#.#.#.#.#.#.#.#", ["a." * 100 + "a"], []),
    ],
)
def test_a_topic_covers_what_can_be_nothing_else(topic: str, within: list[str], beyond: list[str]) -> None:
    assert [wanted for wanted in within if not covers([topic], wanted)] == []
    assert [wanted for wanted in beyond if covers([topic], wanted)] == []


def test_a_secret_that_is_short_is_refused_and_none_is_shown() -> None:
    with pytest.raises(ValueError, match="token_secret must have 32 bytes"):
        Settings(token_secret="short")
    assert SECRET not in repr(Settings(token_secret=SECRET))
