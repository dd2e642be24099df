"""Short-lived tokens, which the application signs (JWT, HS256): what their bearer may hear and send, and until when."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct

from chappe.errors import InvalidSettings
from chappe.roles import FOLLOW, SEND, Caller, Limits

LONGEST: Final = 86400.0  # seconds for which one may be good
_LONGEST_NAME: Final = 200


class _Claims(Struct, frozen=True):
    """What is read of a token; `aud` is the name of the application, and what else it says is passed over."""

    exp: float
    sub: str = "somebody"
    events: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()


class Passes:
    """Reads the tokens of one application."""

    def __init__(self, secret: str, application: str) -> None:
        """Prepare; raises `InvalidSettings` where the library for it is missing."""
        try:
            import jwt
        except ImportError:
            raise InvalidSettings('token_secret needs a library: pip install "chappe[web]"') from None
        self._jwt: Any = jwt
        self._secret = secret
        self._application = application

    def caller(self, authorization: bytes) -> Caller | None:
        """Return whom an Authorization header with a token lets in, or nothing for what is no token of ours, or is none any more."""
        scheme, _, token = authorization.partition(b" ")
        if scheme.lower() != b"bearer":
            return None
        try:
            read = self._jwt.decode(
                token.strip(), self._secret, algorithms=["HS256"], audience=self._application, options={"require": ["exp", "aud"]}
            )
            claims = msgspec.convert(read, _Claims)
        except (self._jwt.InvalidTokenError, msgspec.ValidationError, ValueError, RecursionError):
            return None
        if not claims.exp <= time.time() + LONGEST or not claims.sub.isprintable():
            return None
        may = {FOLLOW for _ in claims.events[:1]} | {SEND for _ in claims.commands[:1]}
        limits = Limits(claims.events, frozenset(claims.commands), claims.exp)
        return Caller(claims.sub[:_LONGEST_NAME], frozenset(may), limits)


def covers(topics: Sequence[str], wanted: str) -> bool:
    """Tell whether all routing keys that fit a pattern fit one of these too; where that is hard to tell, it is no."""
    return any(_covers(topic.split("."), wanted.split(".")) for topic in topics)


def _covers(topic: Sequence[str], wanted: Sequence[str]) -> bool:
    """Walk through the wanted pattern, noting how many words of the topic may be used up by then; `#` is one that only `#` takes."""
    reachable = _with_skipped({0}, topic)
    for word in wanted:
        taken = {n for n in reachable if n < len(topic) and topic[n] == "#"}
        if word != "#":
            taken |= {n + 1 for n in reachable if n < len(topic) and topic[n] in ("*", word) and topic[n] != "#"}
        reachable = _with_skipped(taken, topic)
    return len(topic) in reachable


def _with_skipped(reachable: set[int], topic: Sequence[str]) -> set[int]:
    for n in range(len(topic)):
        if n in reachable and topic[n] == "#":
            reachable = reachable | {n + 1}
    return reachable
