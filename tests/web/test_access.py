"""Who may do what: every route with every role, and who a request is from."""

from __future__ import annotations

import asyncio
import hashlib
import os
from pathlib import Path
from typing import Any

import pytest
from starlette.routing import Mount, Route
from starlette.types import ASGIApp

from chappe import Settings
from chappe.errors import InvalidSettings
from chappe.settings import load
from chappe.web.access import Checked
from chappe.web.gateway import gateway

from .shop import TOKEN, Open, make, opened

ROLES = ("reader", "sender", "operator", "admin")
READERS, SENDERS, OPERATORS, ADMIN = {"reader", "operator", "admin"}, {"sender", "operator", "admin"}, {"operator", "admin"}, {"admin"}
ALL = set(ROLES)
MAY: dict[str, set[str]] = {
    "POST /commands/{name}": SENDERS,
    "GET /messages/{id}": ALL,
    "GET /batches/{id}": ALL,
    "GET /events": ALL,
    "WEBSOCKET /events": ALL,
    "GET /livez": ALL,
    "GET /healthz": ALL,
    "GET /readyz": ALL,
    "GET /metrics": READERS,
    "GET /openapi.json": ALL,
    "GET /asyncapi.json": ALL,
    "GET /chappe.js": ALL,
    "GET /dashboard": ALL,
    "GET /dashboard/{path:path}": ALL,
    "MOUNT /dashboard": ALL,
    "MOUNT ": ALL,
    "GET /api/me": ALL,
    "GET /api/overview": READERS,
    "GET /api/changes": READERS,
    "GET /api/queues": READERS,
    "GET /api/messages": READERS,
    "GET /api/messages/{id}": READERS,
    "GET /api/lineage/{id}": READERS,
    "GET /api/schedules": READERS,
    "GET /api/budgets": READERS,
    "GET /api/failures": READERS,
    "GET /api/failures/{fingerprint}": READERS,
    "GET /api/batches": READERS,
    "GET /api/batches/{id}": READERS,
    "GET /api/letters": READERS,
    "GET /api/letters/{number:int}": READERS,
    "GET /api/history": READERS,
    "GET /api/alerts": READERS,
    "GET /api/audit": READERS,
    "GET /api/pools/{name}/logs": OPERATORS,
    "POST /api/processes/{pid:int}/stacks": OPERATORS,
    "POST /api/messages/{id}/cancel": OPERATORS,
    "POST /api/queues/{name:path}": OPERATORS,
    "POST /api/schedules/{name:path}": OPERATORS,
    "POST /api/failures/{fingerprint}": OPERATORS,
    "POST /api/batches/{id}": OPERATORS,
    "POST /api/letters/{number:int}": OPERATORS,
    "POST /api/intake": ADMIN,
    "POST /api/pools/{name}": ADMIN,
    "POST /api/tenants/{name:path}": ADMIN,
    "POST /api/reload": ADMIN,
}


def token_of(role: str) -> str:
    return f"the-token-of-the-{role}"


def tokens(*roles: str) -> dict[str, Any]:
    return {role: {"role": role, "digest": hashlib.sha256(token_of(role).encode()).hexdigest()} for role in roles}


def settings(**values: Any) -> dict[str, Any]:
    """Return settings as they are read from a file."""
    read = load({name: value for name, value in values.items()}, {}, None)
    return {name: getattr(read, name) for name in values}


async def status_of(asgi: ASGIApp, route: str, role: str) -> int:
    """Return how a request is answered, without waiting for an answer to end that has none."""
    method, path = route.split(" ")
    begun: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def receive() -> Any:
        return {"type": "websocket.connect"} if method == "WEBSOCKET" else {"type": "http.request", "body": b"{}", "more_body": False}

    async def send(message: Any) -> None:
        if "status" in message and not begun.done():
            begun.set_result(message["status"])

    headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
    if role in ROLES:
        headers.append((b"authorization", f"Bearer {token_of(role)}".encode()))
    path = path.replace("{number:int}", "7").replace("{pid:int}", "7").replace("{name:path}", "x").replace("{path:path}", "x")
    path = path.replace("{name}", "x").replace("{id}", "x").replace("{fingerprint}", "x") or "/x"
    scope = {
        "type": "websocket" if method == "WEBSOCKET" else "http", "method": "GET" if method == "MOUNT" else method, "path": path,
        "headers": headers, "query_string": b"", "http_version": "1.1", "root_path": "", "subprotocols": [],
    }  # fmt: skip
    if method == "WEBSOCKET":
        del scope["method"]
        scope["extensions"] = {"websocket.http.response": {}}
    running = asyncio.ensure_future(asgi(scope, receive, send))
    await asyncio.wait((running, begun), return_when=asyncio.FIRST_COMPLETED)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    return begun.result()


def mounted(asgi: Any) -> dict[str, str]:
    """Return the routes of a gateway, and what each needs."""
    found: dict[str, str] = {}
    for route in asgi._app._app.routes:
        assert isinstance(route.app, Checked), f"whoever wants to may use {route.path}"
        if isinstance(route, Route):
            found |= {f"{method} {route.path}": route.app.need for method in (route.methods or set()) - {"HEAD"}}
        else:
            found[f"{'MOUNT' if isinstance(route, Mount) else 'WEBSOCKET'} {route.path}"] = route.app.need
    return found


async def test_every_role_may_use_the_routes_that_are_for_it_and_no_others(tmp_path: Path) -> None:
    async with opened(tmp_path, **settings(tokens=tokens(*ROLES), pages=str(tmp_path))) as shop:
        asgi = gateway(shop.app)
        routes = mounted(asgi)
        pages = {"GET /dashboard/{path:path}", "MOUNT /dashboard"}  # the pages, or that they are not built
        assert set(routes) | pages == set(MAY), "say here who may use a new route"
        may = {route: {role for role in ROLES if await status_of(asgi, route, role) != 403} for route in sorted(routes)}
        assert may == {route: MAY[route] for route in may}
        strangers = {route for route in routes if await status_of(asgi, route, "stranger") != 401}
        assert strangers == {route for route in routes if routes[route] == "open"}


async def test_a_head_needs_what_a_get_needs(tmp_path: Path) -> None:
    async with opened(tmp_path, **settings(tokens=tokens(*ROLES))) as shop:
        for role, status in (("reader", 200), ("sender", 403)):
            answer = await shop.client.head("/api/overview", headers={"Authorization": f"Bearer {token_of(role)}"})
            assert answer.status_code == status


async def me(shop: Open, **headers: str) -> Any:
    answer = await shop.client.get("/api/me", headers={name.replace("_", "-"): value for name, value in headers.items()})
    return answer.json()["name"] if answer.status_code == 200 else answer.status_code


async def test_who_speaks_is_named_by_token_or_user_and_so_in_the_audit_trail(tmp_path: Path) -> None:
    async with opened(tmp_path, token=TOKEN, **settings(tokens=tokens(*ROLES))) as shop:
        assert await me(shop) == "token"
        assert await me(shop, Authorization=f"Bearer {token_of('operator')}") == "token operator"
        assert await me(shop, Authorization=f"Basic {token_of('operator')}") == 401
        allowed = {"Authorization": f"Bearer {token_of('operator')}"}
        assert (await shop.client.post("/api/queues/invites", json={"paused": True}, headers=allowed)).status_code == 200
        entries = (await shop.client.get("/api/audit")).json()["entries"]
        assert (entries[0]["who"], entries[0]["what"], entries[0]["value"]) == ("token operator@http", "queue:invites", "paused")
        answer = await shop.client.post("/api/intake", json={"paused": True}, headers=allowed)
        assert (answer.status_code, "admin" in answer.json()["detail"]) == (403, True)


async def test_the_user_behind_a_connection_is_named_and_may_do_everything(shop: Open) -> None:
    found = (await shop.client.get("/api/me")).json()
    assert found["permissions"] == ["act", "admin", "follow", "logs", "read", "send"]
    assert found["name"]


USERS = {"anne": "admin", "*": "reader"}


async def test_a_proxy_that_runs_as_an_allowed_user_speaks_for_whom_its_header_names(tmp_path: Path) -> None:
    asked = settings(trusted_user_header="X-User", users=USERS, allowed_users=(str(os.getuid()),))
    async with opened(tmp_path, **asked) as shop:
        assert [await me(shop, X_User=name) for name in ("anne", "bob")] == ["anne", "bob"]
        assert (await shop.client.post("/api/intake", json={"paused": False}, headers={"X-User": "bob"})).status_code == 403
        assert (await shop.client.post("/api/intake", json={"paused": False}, headers={"X-User": "anne"})).status_code == 200
        assert [await me(shop), await me(shop, X_User=" "), await me(shop, X_User="x" * 300)] == [403, 403, 403]
        twice = await shop.client.get("/api/me", headers=[("X-User", "anne"), ("X-User", "bob")])
        assert twice.status_code == 400


async def test_nobody_else_is_believed_who_sends_the_header_of_the_proxy(tmp_path: Path) -> None:
    asked = settings(trusted_user_header="X-User", users={"anne": "admin"}, tokens=tokens("proxy", "reader"))
    async with opened(tmp_path, **asked) as shop:
        assert await me(shop, X_User="anne") == 401
        assert await me(shop, X_User="anne", Authorization=f"Bearer {token_of('reader')}") == "token reader"
        assert await me(shop, X_User="anne", Authorization=f"Bearer {token_of('proxy')}") == "anne"
        assert await me(shop, X_User="eve", Authorization=f"Bearer {token_of('proxy')}") == 403
        assert await me(shop, Authorization=f"Bearer {token_of('proxy')}") == 403
    async with opened(tmp_path / "own", **settings(trusted_user_header="X-User", users={"anne": "reader"})) as shop:
        assert await me(shop, X_User="anne") != "anne", "this user is who runs it, and no proxy"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"tokens": {"a": {"role": "king", "digest": "0" * 64}}}, 'tokens.a: "king" is no role; roles are: reader, sender'),
        ({"tokens": {"a": {"role": "reader", "digest": "secret"}}}, "printf %s TOKEN | sha256sum"),
        ({"tokens": {"a": {"role": "reader", "token": "x"}}}, "no setting is called"),
        ({"tokens": {"a b": {"role": "reader", "digest": "0" * 64}}}, "no name for a token"),
        ({"tokens": tokens("proxy")}, "say which in trusted_user_header"),
        ({"users": {"anne": "admin"}}, "belong together"),
        ({"trusted_user_header": "X-User"}, "belong together"),
        ({"trusted_user_header": "X User", "users": USERS}, "the name of a header"),
        ({"trusted_user_header": "X-User", "users": {"anne": "king"}}, "is no role"),
    ],
)
def test_settings_that_would_let_nobody_or_everybody_in_are_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidSettings, match=said.replace("(", r"\(").replace("%", "%").replace("|", r"\|")) as caught:
        load(values, {}, None)
    assert "secret" not in str(caught.value)


def test_tables_of_access_are_given_in_the_file_only() -> None:
    for name in ("CHAPPE_TOKENS", "CHAPPE_USERS"):
        with pytest.raises(InvalidSettings, match=r"declared in chappe\.toml"):
            load({}, {name: "x"}, None)


def test_an_address_that_others_can_reach_needs_a_token_of_any_kind(tmp_path: Path) -> None:
    app = make()
    app.configure(Settings(broker=f"sqlite:///{tmp_path}/a.db", host="0.0.0.0", **settings(tokens=tokens("reader"))))
    gateway(app)


async def test_commands_over_a_websocket_need_what_they_need_over_http() -> None:
    from chappe.roles import ROLES as KNOWN
    from chappe.roles import Caller
    from chappe.web.access import CALLER
    from chappe.web.asked import answer_commands

    sent: list[str] = []

    class Socket:
        def __init__(self, role: str) -> None:
            self.scope = {CALLER: Caller(role, KNOWN[role])}
            self.received = iter([{"type": "websocket.receive", "text": '{"command": "order", "body": {}, "ref": 1}'}])

        async def receive(self) -> Any:
            if (message := next(self.received, None)) is None:
                while len(sent) < self.expected:
                    await asyncio.sleep(0)
                return {"type": "websocket.disconnect"}
            return message

        async def send_text(self, text: str) -> None:
            sent.append(text)

    async def post(_: Any) -> Any:
        from starlette.responses import Response

        return Response(b"{}", 202)

    for number, role in enumerate(("reader", "sender"), 1):
        socket: Any = Socket(role)
        socket.expected = number
        await answer_commands(socket, post)
    assert ['"status":403' in sent[0], '"status":202' in sent[1]] == [True, True]
