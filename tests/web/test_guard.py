"""Who may speak to the gateway."""

import os
import pwd
from pathlib import Path
from typing import Any

import httpx2
import pytest

from chappe import App, Settings
from chappe.binding import refuse_open_bind
from chappe.errors import InvalidSettings
from chappe.settings import is_loopback
from chappe.web.gateway import gateway

from .shop import TOKEN, Open, opened


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("localhost:7070", 200),
        ("LOCALHOST", 200),
        ("127.0.0.1:1", 200),
        ("[::1]", 200),
        ("[::1]:7070", 200),
        ("shop.example", 200),
        ("Shop.Example:443", 200),
        ("evil.example", 421),
        ("localhost.evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("evil.example:localhost", 421),
        ("[::2]", 421),
        ("0.0.0.0", 421),
        ("", 421),
        ("localhost@evil.example", 421),
        ("localhost, evil.example", 421),
    ],
)
async def test_only_known_hosts_are_served(tmp_path: Path, host: str, status: int) -> None:
    async with opened(tmp_path, allowed_hosts=("shop.example",)) as shop:
        answer = await shop.client.get("/livez", headers={"Host": host})
        assert answer.status_code == status


async def test_two_hosts_or_none_are_refused(shop: Open) -> None:
    answer = await shop.client.get("/livez", headers=[("Host", "localhost"), ("Host", "localhost")])
    assert answer.status_code == 421
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    scope = {"type": "http", "method": "GET", "path": "/livez", "headers": [], "query_string": b"", "http_version": "1.0"}
    await shop.asgi(scope, receive, send)
    assert sent[0]["status"] == 421


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        (None, 202),
        ("http://localhost:7070", 202),
        ("https://localhost:7070", 202),
        ("https://app.example", 202),
        ("HTTPS://App.Example", 202),
        ("http://localhost", 403),
        ("http://localhost:8080", 403),
        ("http://app.example", 403),
        ("https://app.example.evil", 403),
        ("https://evil.example", 403),
        ("null", 403),
        ("", 403),
        ("file://", 403),
    ],
)
async def test_only_known_origins_may_speak(tmp_path: Path, origin: str | None, status: int) -> None:
    async with opened(tmp_path, allowed_origins=("https://app.example/",)) as shop:
        headers = {} if origin is None else {"Origin": origin}
        answer = await shop.client.post("/commands/invite", json={"address": "a"}, headers=headers)
        assert answer.status_code == status
        assert await shop.stored("invites") == (1 if status == 202 else 0)


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        (f"Bearer {TOKEN}", 200),
        (f"bearer {TOKEN}", 200),
        (f"Bearer  {TOKEN} ", 200),
        (None, 401),
        ("", 401),
        (f"Bearer {TOKEN}x", 401),
        (f"Bearer {TOKEN[:-1]}", 401),
        ("Bearer", 401),
        (f"Basic {TOKEN}", 401),
        (TOKEN, 401),
    ],
)
@pytest.mark.parametrize("path", ["/api/queues", "/openapi.json", "/metrics"])
async def test_a_token_is_needed_where_one_is_set(tmp_path: Path, authorization: str | None, status: int, path: str) -> None:
    async with opened(tmp_path, token=TOKEN) as shop:
        shop.client.headers.pop("Authorization")
        headers = {} if authorization is None else {"Authorization": authorization}
        answer = await shop.client.get(path, headers=headers)
        assert answer.status_code == status
        if status == 401:
            assert answer.headers["www-authenticate"] == "Bearer"


async def test_whether_the_process_lives_needs_no_token(tmp_path: Path) -> None:
    async with opened(tmp_path, token=TOKEN) as shop:
        shop.client.headers.pop("Authorization")
        assert (await shop.client.get("/livez")).status_code == 200
        assert (await shop.client.get("/livez/../api/queues")).status_code in (401, 404)


async def test_headers_over_16_kib_are_431(shop: Open) -> None:
    assert (await shop.client.get("/livez", headers={"X-Large": "x" * 15_000})).status_code == 200
    assert (await shop.client.get("/livez", headers={"X-Large": "x" * 17_000})).status_code == 431


async def test_a_body_over_the_limit_is_413_by_its_announced_length(tmp_path: Path) -> None:
    async with opened(tmp_path, max_body=1000) as shop:
        answer = await shop.client.post("/commands/invite", json={"address": "a" * 1000})
        assert answer.status_code == 413
        assert answer.headers["connection"] == "close"
        assert (await shop.client.post("/commands/invite", json={"address": "a" * 900})).status_code == 202


async def test_a_body_over_the_limit_is_413_also_when_its_length_is_not_announced(tmp_path: Path) -> None:
    async def chunks():
        for _ in range(11):
            yield b"x" * 100

    async with opened(tmp_path, max_body=1000) as shop:
        answer = await shop.client.post("/commands/invite", content=chunks(), headers={"Content-Type": "application/json"})
        assert answer.status_code == 413
        assert await shop.stored("invites") == 0


@pytest.mark.parametrize("length", ["-1", "1e3", "0x10", "+5", ""])
async def test_a_length_that_is_no_number_is_413(shop: Open, length: str) -> None:
    answer = await shop.client.post(
        "/commands/invite", content=b"{}", headers={"Content-Length": length, "Content-Type": "application/json"}
    )
    assert answer.status_code == 413


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate, gzip"])
async def test_compressed_bodies_are_415(shop: Open, encoding: str) -> None:
    answer = await shop.client.post("/commands/invite", json={"address": "a"}, headers={"Content-Encoding": encoding})
    assert answer.status_code == 415


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("localhost", True), ("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("[::1]", True), ("0.0.0.0", False), ("::", False), ("10.0.0.1", False),
     ("example.org", False), ("", False)],
)  # fmt: skip
def test_what_is_this_machine_only(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


def test_an_open_bind_without_a_token_is_refused() -> None:
    with pytest.raises(InvalidSettings, match="no token is set; set CHAPPE_TOKEN"):
        gateway(App("app", settings=Settings(host="0.0.0.0")))
    refuse_open_bind(Settings(host="0.0.0.0", token=TOKEN))


def test_a_short_token_is_refused_with_the_way_to_a_better_one() -> None:
    with pytest.raises(InvalidSettings, match="shorter than 16 characters; make one with"):
        refuse_open_bind(Settings(token="short"))


@pytest.mark.parametrize("token", ["a token with spaces in it", "ein schönes Zeichen für alle", "control\x00" * 4])
def test_a_token_that_no_header_can_carry_is_refused(token: str) -> None:
    with pytest.raises(InvalidSettings, match="no header can carry"):
        refuse_open_bind(Settings(token=token))


async def test_every_refusal_is_a_problem_document(tmp_path: Path) -> None:
    async with opened(tmp_path, token=TOKEN, max_body=10) as shop:
        client: httpx2.AsyncClient = shop.client
        answers = [
            await client.get("/api/queues", headers={"Authorization": "no"}),
            await client.get("/api/queues", headers={"Host": "evil.example"}),
            await client.get("/api/queues", headers={"Origin": "https://evil.example"}),
            await client.get("/api/queues", headers={"X": "x" * 20_000}),
            await client.post("/commands/invite", json={"address": "a" * 100}),
            await client.get("/nowhere"),
            await client.delete("/commands/order"),
        ]
    assert [a.status_code for a in answers] == [401, 421, 403, 431, 413, 404, 405]
    for answer in answers:
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["status"] == answer.status_code
        assert answer.json()["title"]


@pytest.mark.parametrize("name", ["Origin", "Authorization", "Content-Type", "Idempotency-Key"])
async def test_a_header_that_decides_something_is_taken_once(shop: Open, name: str) -> None:
    headers = [("Content-Type", "application/json"), (name, "http://localhost:7070"), (name, "application/json")]
    answer = await shop.client.post("/commands/invite", content=b'{"address": "a"}', headers=headers)
    assert answer.status_code == 400
    assert answer.json()["detail"] == f"send {name.lower()} once"
    assert await shop.stored("invites") == 0


async def test_an_address_over_8_kib_is_414(shop: Open) -> None:
    assert (await shop.client.get("/livez?" + "x" * 8000)).status_code == 200
    assert (await shop.client.get("/livez?" + "x" * 8200)).status_code == 414
    assert (await shop.client.get("/messages/" + "x" * 8200)).status_code == 414


async def test_compression_is_refused_in_any_of_its_headers(shop: Open) -> None:
    headers = [("Content-Encoding", "gzip"), ("Content-Encoding", "identity"), ("Content-Type", "application/json")]
    assert (await shop.client.post("/commands/invite", content=b"{}", headers=headers)).status_code == 415


async def test_a_length_of_very_many_digits_is_413(shop: Open) -> None:
    answer = await shop.client.post("/commands/invite", content=b"{}", headers={"Content-Length": "9" * 5000})
    assert answer.status_code == 413


STRANGER = 54321
PATHS = {"/api/queues": 403, "/metrics": 403, "/readyz": 403, "/openapi.json": 403, "/messages/x": 403, "/livez": 200, "/healthz": 200}


def of_user(user: int | None) -> Any:
    """Return what tells an application who is behind each connection."""

    def wrap(asgi: Any) -> Any:
        async def called(scope: Any, receive: Any, send: Any) -> None:
            await asgi({**scope, "extensions": {"chappe.user": {"id": user}}}, receive, send)

        return called

    return wrap


@pytest.mark.parametrize("user", [STRANGER, None])
async def test_without_a_token_another_user_is_told_what_to_do(tmp_path: Path, user: int | None) -> None:
    async with opened(tmp_path, wrap=of_user(user)) as shop:
        for path, status in PATHS.items():
            assert (await shop.client.get(path)).status_code == status, path
        answer = await shop.client.post("/commands/invite", json={"address": "a"})
        assert answer.status_code == 403
        assert answer.headers["content-type"] == "application/problem+json"
        assert "set CHAPPE_TOKEN" in answer.json()["detail"]
        assert ('add "54321" to allowed_users' in answer.json()["detail"]) is (user is not None)
        assert await shop.stored("invites") == 0


@pytest.mark.parametrize("user", [0, os.getuid()])
async def test_without_a_token_its_user_and_root_are_served(tmp_path: Path, user: int) -> None:
    async with opened(tmp_path, wrap=of_user(user)) as shop:
        assert (await shop.client.get("/api/queues")).status_code == 200


@pytest.mark.parametrize("allowed", [str(STRANGER), "nobody"])
async def test_a_user_is_allowed_by_name_or_number(tmp_path: Path, allowed: str) -> None:
    user = int(allowed) if allowed.isdecimal() else pwd.getpwnam(allowed).pw_uid
    async with opened(tmp_path, wrap=of_user(user), allowed_users=(allowed,)) as shop:
        assert (await shop.client.get("/api/queues")).status_code == 200


async def test_with_a_token_it_does_not_matter_who_has_it(tmp_path: Path) -> None:
    async with opened(tmp_path, wrap=of_user(None), token=TOKEN) as shop:
        assert (await shop.client.get("/api/queues")).status_code == 200


def test_an_allowed_user_that_nobody_is_is_refused() -> None:
    with pytest.raises(InvalidSettings, match='no user of this machine is called "no-such-user"'):
        refuse_open_bind(Settings(allowed_users=("no-such-user",)))
