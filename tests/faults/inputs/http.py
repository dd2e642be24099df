"""Wrong requests to the gateway."""

from __future__ import annotations

from collections.abc import Callable

from .house import ORDER, TOKEN, House
from .row import Answer, Row

PATH = "/commands/order"
MEBIBYTE = 1024 * 1024


def request(
    method: str = "POST",
    path: str = PATH,
    body: bytes = ORDER,
    *,
    host: str = "localhost",
    headers: tuple[str, ...] = (),
    kind: str = "application/json",
) -> bytes:
    """Write a request; each header is a whole line."""
    lines = [f"{method} {path} HTTP/1.1"]
    lines += [f"Host: {host}"] if host else []
    lines += [f"Content-Type: {kind}"] if kind else []
    lines += headers
    if not any(line.lower().startswith(("content-length", "transfer-encoding")) for line in headers):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "Connection: close", "", ""]).encode("latin-1") + body


def sent(raw: bytes, *, guarded: bool = False) -> Callable[[House], Answer]:
    """Send a request to the gateway, or to the one that wants a token."""
    return lambda house: house.http(raw, guarded=guarded)


def chunks(count: int) -> bytes:
    return b"".join(b"10000\r\n" + b" " * 0x10000 + b"\r\n" for _ in range(count)) + b"0\r\n\r\n"


NO_HTTP = "The request is not HTTP…write the lines, Content-Length and Transfer-Encoding as RFC 9112 has them"
NOT_SERVED = "This host is not served here"

ROWS = [
    # --- who speaks
    Row("http-two-hosts", "two Host headers", "`Host: localhost` twice", "421", f"{NOT_SERVED}…send one Host header, not 2",
        sent(request(headers=("Host: localhost",)))),
    Row("http-no-host", "no Host header", "a request without it", "421", "send one Host header, not 0", sent(request(host=""))),
    Row("http-foreign-host", "a host that is not ours (DNS rebinding)", "`Host: evil.example`", "421",
        f'{NOT_SERVED}…add "evil.example" to allowed_hosts if it should be', sent(request(host="evil.example"))),
    Row("http-rebound-host", "a name that leads to this machine", "`Host: 127.0.0.1.nip.io`", "421", "127.0.0.1.nip.io",
        sent(request(host="127.0.0.1.nip.io"))),
    Row("http-any-address", "the address of every interface", "`Host: 0.0.0.0`", "421", NOT_SERVED, sent(request(host="0.0.0.0"))),
    Row("http-number-host", "this machine as a number", "`Host: 2130706433`", "421", NOT_SERVED, sent(request(host="2130706433"))),
    Row("http-host-with-dot", "a trailing dot", "`Host: localhost.`", "421", NOT_SERVED, sent(request(host="localhost."))),
    Row("http-host-with-user", "a user before the host", "`Host: localhost@evil.example`", "421", NOT_SERVED,
        sent(request(host="localhost@evil.example"))),
    Row("http-whole-address", "a whole address, as proxies are sent it", "`POST http://evil.example/commands/order`", "400", NO_HTTP,
        sent(request(path="http://evil.example/commands/order"))),
    Row("http-foreign-origin", "a page of another origin", "`Origin: https://evil.example`", "403",
        'This origin may not speak to the gateway…add "https://evil.example" to allowed_origins if it should',
        sent(request(headers=("Origin: https://evil.example",)))),
    Row("http-null-origin", "a sandboxed page", "`Origin: null`", "403", "This origin may not speak", sent(request(headers=("Origin: null",)))),
    Row("http-two-origins", "two origins, the second of which is ours", "`Origin: https://evil.example`, `Origin: http://localhost`", "400",
        "A header comes twice…send origin once", sent(request(headers=("Origin: https://evil.example", "Origin: http://localhost")))),
    Row("http-cross-site", "a form of another site", "`Sec-Fetch-Site: cross-site` with a form", "403",
        "Another site may not speak to the gateway…a browser says",
        sent(request(headers=("Sec-Fetch-Site: cross-site",), kind="application/x-www-form-urlencoded"))),
    Row("http-cross-site-text", "a form of another site that poses as plain text", "`Sec-Fetch-Site: cross-site`, `Content-Type: text/plain`", "403",
        "Another site may not speak", sent(request(headers=("Sec-Fetch-Site: cross-site",), kind="text/plain"))),
    Row("http-preflight", "a preflight for another origin", "`OPTIONS` with `Access-Control-Request-Method`", "403", "This origin may not speak",
        sent(request("OPTIONS", body=b"", headers=("Origin: https://evil.example", "Access-Control-Request-Method: POST")))),
    Row("http-no-token", "no token where one is needed", "no `Authorization`", "401",
        "www-authenticate: Bearer…A token is needed…send it as: Authorization: Bearer TOKEN", sent(request(), guarded=True)),
    Row("http-wrong-token", "a wrong token", "`Authorization: Bearer` and a token that is one letter too long", "401", "A token is needed",
        sent(request(headers=(f"Authorization: Bearer {TOKEN}x",)), guarded=True)),
    Row("http-token-as-password", "another scheme", "`Authorization: Basic …`", "401", "A token is needed",
        sent(request(headers=(f"Authorization: Basic {TOKEN}",)), guarded=True)),
    Row("http-token-in-address", "the token in the address", "`POST /commands/order?token=…`", "401", "A token is needed",
        sent(request(path=f"{PATH}?token={TOKEN}"), guarded=True)),
    Row("http-two-tokens", "two tokens", "`Authorization` twice", "400", "send authorization once",
        sent(request(headers=("Authorization: Bearer x", f"Authorization: Bearer {TOKEN}")), guarded=True)),
    # --- the frame of the request
    Row("http-no-http", "no HTTP at all", "the hello of TLS", "400", NO_HTTP, sent(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(50))),
    Row("http-2-preface", "HTTP/2 without asking", "`PRI * HTTP/2.0`", "400", NO_HTTP, sent(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")),
    Row("http-unknown-method", "a method that is none", "`BREW /commands/order`", "400", NO_HTTP, sent(request("BREW"))),
    Row("http-wrong-method", "another method", "`DELETE /commands/order`", "405", "allow: POST…taken here: POST", sent(request("DELETE"))),
    Row("http-unknown-path", "an address that is none", "`POST /comands/order`", "404", "what there is stands in /openapi.json",
        sent(request(path="/comands/order"))),
    Row("http-slash", "a slash too many", "`POST /commands/order/`", "404", "what there is stands in /openapi.json", sent(request(path=f"{PATH}/"))),
    Row("http-path-outside", "a way out of the path", "`POST /commands/%2e%2e%2fqueues`", "404", "what there is stands in /openapi.json",
        sent(request(path="/commands/%2e%2e%2fqueues"))),
    Row("http-long-address", "an address over 8 KiB", "a query of 9,000 bytes", "414", "The address is too long…at most 8192 bytes",
        sent(request(path=f"{PATH}?{'x' * 9000}"))),
    Row("http-large-headers", "headers over 16 KiB", "a header of 17,000 bytes", "431", "The headers are too large…at most 16384 bytes",
        sent(request(headers=("X-Large: " + "x" * 17_000,)))),
    Row("http-many-headers", "very many headers", "3,000 headers", "431", "at most 16384 bytes",
        sent(request(headers=tuple(f"X-{n}: {n}" for n in range(3000))))),
    Row("http-slow-headers", "headers that come slowly (slowloris)", "a header line each 0.2 s, for ever", "408",
        "The headers did not come in time…at most 10 seconds", lambda house: house.drip(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n", b"X: 1\r\n"),
        "the gateway hangs up"),
    Row("http-header-with-nul", "a NUL in a header", "`X-Name: a\\0b`", "400", NO_HTTP, sent(request(headers=("X-Name: a\0b",)))),
    Row("http-folded-header", "a header in two lines", "`X-Name: a`, then a line that begins with a space", "400", NO_HTTP,
        sent(request(headers=("X-Name: a\r\n b",)))),
    Row("http-two-lengths", "two lengths", "`Content-Length: 19`, `Content-Length: 5`", "400", NO_HTTP,
        sent(request(headers=("Content-Length: 19", "Content-Length: 5")))),
    Row("http-length-and-chunks", "a length and chunks (request smuggling)", "`Content-Length: 19`, `Transfer-Encoding: chunked`", "400", NO_HTTP,
        sent(request(headers=("Content-Length: 19", "Transfer-Encoding: chunked")))),
    Row("http-length-no-number", "a length that is no number", "`Content-Length: -1`", "400", NO_HTTP,
        sent(request(headers=("Content-Length: -1",)))),
    Row("http-unknown-encoding", "a transfer encoding without an end", "`Transfer-Encoding: gzip`", "400", NO_HTTP,
        sent(request(headers=("Transfer-Encoding: gzip",)))),
    Row("http-broken-chunk", "a chunk whose size is no number", "`Transfer-Encoding: chunked`, then `zz`", "400", NO_HTTP,
        sent(request(headers=("Transfer-Encoding: chunked",), body=b"zz\r\n{}\r\n0\r\n\r\n"))),
    Row("http-host-in-trailer", "a host behind the body", "a trailer `Host: localhost`, and no such header", "421", "send one Host header, not 0",
        sent(request(host="", headers=("Transfer-Encoding: chunked",), body=b"2\r\n{}\r\n0\r\nHost: localhost\r\n\r\n"))),
    Row("http-type-in-trailer", "a content type behind the body", "a trailer `Content-Type: application/json`, and no such header", "415",
        "send it with Content-Type", sent(request(kind="", headers=("Transfer-Encoding: chunked",),
        body=b"2\r\n{}\r\n0\r\nContent-Type: application/json\r\n\r\n"))),
    Row("http-token-in-trailer", "the token behind the body", "a trailer `Authorization: Bearer …`, and no such header", "401", "A token is needed",
        sent(request(headers=("Transfer-Encoding: chunked",), body=b"2\r\n{}\r\n0\r\nAuthorization: Bearer "
        + TOKEN.encode() + b"\r\n\r\n"), guarded=True)),
    Row("http-long-trailers", "trailers without end", "200,000 bytes behind the last chunk", "431", "The headers are too large…trailers",
        sent(request(headers=("Transfer-Encoding: chunked",), body=b"2\r\n{}\r\n0\r\n" + b"a:b\r\n" * 200_000))),
    Row("http-upgrade", "a request in the body of an upgrade", "`Upgrade: x`, and a body that is `GET /api/queues`", "400", "The body is not JSON",
        sent(request(headers=("Connection: upgrade", "Upgrade: x"), body=b"GET /api/queues HTTP/1.1\r\nHost: localhost\r\n\r\n")),
        "the upgrade is ignored, the body is a body"),
    # --- the body
    Row("http-large-body", "a body over 1 MiB", "its announced length", "413", "The body is too large…at most 1048576 bytes",
        sent(request(body=b'{"customer": "' + b"a" * MEBIBYTE + b'"}'))),
    Row("http-large-chunks", "a body over 1 MiB whose length is not announced", "17 chunks of 64 KiB", "413", "at most 1048576 bytes",
        sent(request(headers=("Transfer-Encoding: chunked",), body=chunks(17)))),
    Row("http-text", "plain text", "`Content-Type: text/plain`", "415", "The body must be JSON…send it with Content-Type: application/json",
        sent(request(kind="text/plain"))),
    Row("http-form", "a form", "`Content-Type: application/x-www-form-urlencoded`", "415", "curl does so with --json",
        sent(request(kind="application/x-www-form-urlencoded"))),
    Row("http-no-type", "no content type", "a request without it", "415", "send it with Content-Type: application/json", sent(request(kind=""))),
    Row("http-two-types", "two content types", "`text/plain`, then `application/json`", "400", "send content-type once",
        sent(request(kind="text/plain", headers=("Content-Type: application/json",)))),
    Row("http-compressed", "a compressed body", "`Content-Encoding: gzip`", "415", "Compressed bodies are not taken…send the body as it is",
        sent(request(headers=("Content-Encoding: gzip",)))),
    Row("http-empty-body", "no body", "0 bytes", "400", "The body is not JSON…it is empty; send an object", sent(request(body=b""))),
    Row("http-not-json", "no JSON", "`{customer: 1}`", "400", "The body is not JSON…(byte 1)", sent(request(body=b"{customer: 1}"))),
    Row("http-not-utf8", "no UTF-8", "a byte `ff` in a text", "400", "it is not UTF-8 (byte 14)", sent(request(body=b'{"customer": "\xff"}'))),
    Row("http-utf16", "UTF-16", "the body in another encoding", "400", "it is not UTF-8 (byte 0)",
        sent(request(body='{"customer": "Ada"}'.encode("utf-16")))),
    Row("http-surrogate", "half of a surrogate pair", '`"\\ud800"`', "400", "The body is not JSON", sent(request(body=b'{"customer": "\\ud800"}'))),
    Row("http-nan", "a number that JSON does not have", '`"price": NaN`', "400", "invalid character (byte 28)",
        sent(request(body=b'{"customer": "Ada", "price":NaN}'))),
    Row("http-infinite", "a number that is too large", '`"price": 1e999`', "400", "Number out of range",
        sent(request(body=b'{"customer": "Ada", "price": 1e999}'))),
    Row("http-digits", "an integer of more than 4,300 digits", "4,301 nines", "400", "Integer value out of range",
        sent(request(body=b'{"customer": "Ada", "count": ' + b"9" * 4301 + b"}"))),
    Row("http-deep", "JSON nested deeper than 64", "65 brackets", "400", "The body is nested too deeply…at most 64 levels",
        sent(request(body=b'{"notes": ' + b"[" * 65 + b"]" * 65 + b"}"))),
    Row("http-fields", "more than 10,000 fields", "10,001 of them", "400", "The body is of too many fields…at most 10000",
        sent(request(body=b"{" + b",".join(b'"f%d": 1' % n for n in range(10_001)) + b"}"))),
    Row("http-double-field", "a field twice", '`{"customer": "Ada", "customer": "Eve"}`', "400",
        'The body is ambiguous…"customer" comes twice in one object; name each field once',
        sent(request(body=b'{"customer": "Ada", "customer": "Eve"}'))),
    Row("http-quotes", "a text without an end that could begin at each of its quotes", '1 MB of `\\"`', "400", "The body is not JSON",
        sent(request(body=b"{}" * 70 + b'"' + b'\\"' * 500_000)), "the answer comes at once"),
    # --- the message
    Row("http-array", "no object", "`[]`", "422", "Expected `object`, got `array`", sent(request(body=b"[]"))),
    Row("http-missing", "a field is missing", "`{}`", "422", '"path":"$.customer","detail":"Field required"', sent(request(body=b"{}"))),
    Row("http-many-faults", "several fields at fault", '`{"customer": 1, "count": "x", "when": "31.12.2026", "more": 1}`', "422",
        '"$.customer","detail":"Expected `str`, got `int`"…"$.count","detail":"Expected `int`, got `str`"…"$.when"…'
        '"$.more","detail":"Unknown field"',
        sent(request(body=b'{"customer": 1, "count": "x", "when": "31.12.2026", "more": 1}'))),
    Row("http-out-of-range", "values out of their range", '`{"customer": "", "count": 0}`', "422",
        "Expected `str` of length >= 1…Expected `int` >= 1", sent(request(body=b'{"customer": "", "count": 0}'))),
    Row("http-huge-number", "a number of 65 bits", '`"count": 18446744073709551616`', "422", "Expected `int` <= 1000",
        sent(request(body=b'{"customer": "Ada", "count": 18446744073709551616}'))),
    Row("http-unknown-command", "a command that is none", "`POST /commands/ordr`", "404",
        'No such command…no message is called "ordr", did you mean "order"?', sent(request(path="/commands/ordr"))),
    Row("http-event", "an event as a command", "`POST /commands/sold`", "404", '"sold" is an event; commands are: add, order, parcel',
        sent(request(path="/commands/sold"))),
    Row("http-key-with-space", "a key that no header should carry", "`Idempotency-Key: a b`", "400",
        "The idempotency key is not usable…1 to 255 printable ASCII characters without spaces",
        sent(request(headers=("Idempotency-Key: a b",)))),
    Row("http-long-key", "a key that is too long", "`Idempotency-Key` of 256 letters", "400", "The idempotency key is not usable",
        sent(request(headers=("Idempotency-Key: " + "k" * 256,)))),
    Row("http-two-keys", "two keys", "`Idempotency-Key` twice", "400", "send idempotency-key once",
        sent(request(headers=("Idempotency-Key: a", "Idempotency-Key: b")))),
    Row("http-preference", "a preference that cannot be read", "`Prefer: wait=soon`", "200", '"state":"done"',
        sent(request(path="/commands/add", body=b'{"a": 1}', headers=("Prefer: wait=soon",))),
        "it is ignored, as RFC 7240 wants it"),
    Row("http-unknown-message", "a message that is not known", "`GET /messages/nobody`", "404",
        "message nobody is not known: only messages sent over HTTP, asked for, or declared with results=True",
        sent(request("GET", "/messages/nobody", b""))),
]  # fmt: skip
