"""Who may speak to the gateway: its own user or a token, known hosts and origins, bounded requests."""

from __future__ import annotations

import functools
import hashlib
import hmac
import os
import pwd
import re
from collections.abc import Awaitable, Callable
from typing import Final

from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chappe.binding import users_of
from chappe.failures import printable
from chappe.roles import PROXY, ROLES, Caller
from chappe.settings import Settings
from chappe.web.access import CALLER
from chappe.web.passes import Passes
from chappe.web.peer import user_behind
from chappe.web.problems import problem
from chappe.web.wrong_tokens import WrongTokens

LARGEST_HEADERS: Final = 16 * 1024
LONGEST_ADDRESS: Final = 8 * 1024
OPEN_PATHS: Final = frozenset({"/livez", "/healthz"})
_LOOPBACK_NAMES: Final = ("localhost", "127.0.0.1", "[::1]")
_LONGEST_NAME: Final = 200
_COME_BACK: Final = {"Retry-After": "1", "Connection": "close"}
# Two of these would be two meanings: what stands between us and the client may have believed the other one.
_ONCE: Final = frozenset({b"origin", b"authorization", b"content-type", b"content-length", b"idempotency-key"})


class BodyTooLarge(HTTPException):
    """The body went over the limit while it was read; whoever reads it answers so."""

    def __init__(self, most: int) -> None:
        super().__init__(413, "The body is too large", {"Connection": "close"})
        self.most = most


def _tokens_of(settings: Settings) -> list[tuple[bytes, Caller]]:
    """Return the digests of all tokens, and who sends each."""
    found = [(bytes.fromhex(token.digest), Caller(f"token {name}", ROLES[token.role])) for name, token in settings.tokens.items()]
    if settings.token:
        found.append((hashlib.sha256(settings.token.encode()).digest(), Caller("token", ROLES["admin"])))
    return found


class Guard:
    """Stands before the gateway and turns away what may not enter."""

    def __init__(self, app: ASGIApp, settings: Settings, application: str) -> None:
        self._app = app
        self._tokens = _tokens_of(settings)
        self._passes = Passes(settings.token_secret, application) if settings.token_secret else None
        self._allowed = users_of(settings)
        self._header = (settings.trusted_user_header or "").lower().encode()
        self._once = _ONCE | {self._header}
        self._roles = settings.users
        self._wrong = WrongTokens()
        self._max_body = settings.max_body
        names = {*_LOOPBACK_NAMES, *settings.allowed_hosts}
        if settings.host not in ("0.0.0.0", "::"):  # noqa: S104 - compared, not bound
            names.add(f"[{settings.host}]" if ":" in settings.host else settings.host)
        self._hosts = {name.lower() for name in names}
        self._origins = {origin.lower().rstrip("/") for origin in settings.allowed_origins}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        headers: dict[bytes, bytes] = {}
        refused = self._refuse(scope, headers) or self._identify(scope, headers)
        if refused is not None:
            is_guess = refused.status_code == 401 and any(name == b"authorization" for name, _ in scope["headers"])
            if is_guess and await self._wrong.slow((scope.get("client") or ("another program",))[0]):
                refused = problem(429, "Too many wrong tokens", "try again in a moment", headers=_COME_BACK)
            await refused(scope, receive, send)
            return
        is_http = scope["type"] == "http"
        await self._app(scope, _limited(receive, self._max_body) if is_http else receive, send)

    def _refuse(self, scope: Scope, found: dict[bytes, bytes]) -> Response | None:
        """Return the answer to what nobody may send, and put its headers into a dict."""
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        if oversized := _oversized(scope):
            return oversized
        hosts = [value.decode("latin-1").lower() for name, value in headers if name == b"host"]
        if len(hosts) != 1:
            return problem(421, "This host is not served here", f"send one Host header, not {len(hosts)}")
        host = hosts[0]
        if not self._serves(host):
            return problem(421, "This host is not served here", f'add "{host}" to allowed_hosts if it should be')
        for name, value in headers:
            if name in found and name in self._once:
                return problem(400, "A header comes twice", f"send {name.decode()} once")
            if name == b"content-encoding" and value.strip().lower() != b"identity":
                return problem(415, "Compressed bodies are not taken", "send the body as it is")
            found[name] = value
        origin = found.get(b"origin")
        if origin is not None:
            name = origin.decode("latin-1").lower()
            if name not in self._origins and name not in (f"http://{host}", f"https://{host}"):
                return problem(403, "This origin may not speak to the gateway", f'add "{name}" to allowed_origins if it should')
        is_link = _is_page(scope) and _follows_a_link(found)
        if found.get(b"sec-fetch-site") in (b"cross-site", b"same-site") and origin is None and not is_link:
            return problem(403, "Another site may not speak to the gateway", "a browser says that this request comes from another site")
        length = found.get(b"content-length")
        if length is not None and (not length.isdigit() or len(length) > 18 or int(length) > self._max_body):
            return problem(413, "The body is too large", f"at most {self._max_body} bytes are taken", headers={"Connection": "close"})
        return None

    def _identify(self, scope: Scope, headers: dict[bytes, bytes]) -> Response | None:
        """Have the scope say who speaks, or return the answer to a stranger."""
        if path_of(scope) in OPEN_PATHS or (self._tokens and _is_page(scope)):
            return None
        caller = self._caller(scope, headers)
        if isinstance(caller, Caller) and PROXY in caller.permissions:
            caller = self._named(headers)
        if isinstance(caller, Response):
            return caller
        scope[CALLER] = caller
        return None

    def _caller(self, scope: Scope, headers: dict[bytes, bytes]) -> Caller | Response:
        """Return who speaks: by a token where there is any, or by the user behind the connection."""
        authorization = headers.get(b"authorization") or _offered(scope)
        if self._tokens and (known := self._known(authorization)) is not None:
            return known
        if self._passes is not None and authorization and (passed := self._passes.caller(authorization)) is not None:
            return passed
        user = None if self._tokens and (authorization or not self._header) else _user_of(scope)
        if user in self._allowed and self._header:
            return Caller("a proxy", ROLES[PROXY])
        if self._tokens or (self._passes is not None and authorization):
            return problem(401, "A token is needed", "send it as: Authorization: Bearer TOKEN", headers={"WWW-Authenticate": "Bearer"})
        if user is not None and user in (self._allowed | {os.getuid(), 0}):
            return Caller(_user_named(user), ROLES["admin"])
        if user is None:
            detail = "which user is behind this connection cannot be told here (see docs/how-to/proxy.md); set CHAPPE_TOKEN, and send it"
        else:
            detail = (
                f'without a token only user {os.getuid()}, who runs it, and root are; add "{user}" to allowed_users, or set CHAPPE_TOKEN'
            )
        return problem(403, "This user is not served", detail)

    def _named(self, headers: dict[bytes, bytes]) -> Caller | Response:
        """Return for whom a proxy speaks."""
        name = printable(headers.get(self._header, b"").decode("utf-8", "replace").strip())
        if not name or len(name) > _LONGEST_NAME:
            return problem(403, "The proxy names no user", f"it must send {self._header.decode()} with each request")
        role = self._roles.get(name) or self._roles.get("*")
        if role is None:
            return problem(403, "This user is not served", f'"{name}" has no role in users, and "*" has none')
        return Caller(name, ROLES[role])

    def _serves(self, host: str) -> bool:
        """Tell whether a Host header, a name or an address in brackets and perhaps a port (RFC 9110 §7.2), is one of ours."""
        found = re.fullmatch(r"(\[[^]]*\]|[^:\[][^:]*|)(?::[0-9]+)?", host)
        return found is not None and (found[1] in self._hosts or host in self._hosts)

    def _known(self, authorization: bytes) -> Caller | None:
        scheme, _, token = authorization.partition(b" ")
        digest = hashlib.sha256(token.strip()).digest()
        fits = [caller for known, caller in self._tokens if hmac.compare_digest(digest, known)]  # each is compared, whichever it is
        return fits[0] if fits and scheme.lower() == b"bearer" else None


@functools.lru_cache(maxsize=100)
def _user_named(user: int) -> str:
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return str(user)


def path_of(scope: Scope) -> str:
    """Return the path of a request without the one below which this application is mounted in another."""
    root: str = scope.get("root_path", "").rstrip("/")
    path: str = scope["path"]
    return path[len(root) :] if path.startswith(f"{root}/") else path


def _is_page(scope: Scope) -> bool:
    """Tell whether only the pages of the dashboard are asked for, which hold no secret: what they show they ask for with the token."""
    return scope["type"] == "http" and scope["method"] in ("GET", "HEAD") and f"{path_of(scope)}/".startswith("/dashboard/")


def _follows_a_link(headers: dict[bytes, bytes]) -> bool:
    """Tell whether somebody opens a page from another site, in a tab of its own: there is nothing that could be forged."""
    return headers.get(b"sec-fetch-mode") == b"navigate" and headers.get(b"sec-fetch-dest") == b"document"


def _offered(scope: Scope) -> bytes:
    """Return the token that a browser's WebSocket, which can send no header, offers as a subprotocol `bearer.TOKEN`."""
    offered: list[str] = scope.get("subprotocols", [])
    return next((b"Bearer " + name[7:].encode() for name in offered if name.startswith("bearer.")), b"")


def _user_of(scope: Scope) -> int | None:
    """Return the user behind a connection, as the protocol saw when it was made; else as its addresses say now."""
    told: dict[str, int | None] | None = scope.get("extensions", {}).get("chappe.user")
    return user_behind(scope.get("client"), scope.get("server")) if told is None else told["id"]


def _oversized(scope: Scope) -> Response | None:
    if sum(len(name) + len(value) for name, value in scope["headers"]) > LARGEST_HEADERS:
        return problem(431, "The headers are too large", f"at most {LARGEST_HEADERS} bytes are taken")
    if len(scope.get("raw_path") or b"") + len(scope["query_string"]) > LONGEST_ADDRESS:
        return problem(414, "The address is too long", f"at most {LONGEST_ADDRESS} bytes are taken; send long values in the body")
    return None


def _limited(receive: Receive, most: int) -> Callable[[], Awaitable[Message]]:
    taken = 0

    async def limited() -> Message:
        nonlocal taken
        message = await receive()
        taken += len(message.get("body", b""))
        if taken > most:
            raise BodyTooLarge(most)
        return message

    return limited
