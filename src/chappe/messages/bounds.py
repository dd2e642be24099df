"""What JSON from outside may look like: not too deep, not too many fields, no field twice."""

from __future__ import annotations

import collections
import json
import re
from itertools import accumulate
from typing import Any, Final

DEEPEST: Final = 64
MOST_FIELDS: Final = 10_000

# Possessive, and an end is not needed: whatever stands in the body, this looks at each byte once.
_TEXT: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+\\?"?', re.DOTALL)
_NO_BRACKETS: Final = bytes(set(range(256)) - set(b"[{}]"))
_STEPS: Final = bytes.maketrans(b"[{}]", b"\x01\x01\xff\xff")


def excess_of(body: bytes) -> tuple[str, str] | None:
    """Say what the body is and what is taken, if it goes over a bound; what is no JSON at all is left to the decoder."""
    if body.count(b"[") + body.count(b"{") > DEEPEST or body.count(b":") > MOST_FIELDS:
        bare = _TEXT.sub(b"", body)
        steps = memoryview(bare.translate(_STEPS, _NO_BRACKETS)).cast("b")
        if max(accumulate(steps), default=0) > DEEPEST:
            return "nested too deeply", f"at most {DEEPEST} levels are taken"
        if bare.count(b":") > MOST_FIELDS:
            return "of too many fields", f"at most {MOST_FIELDS} are taken"
    twice = _named_twice(body) if body.count(b":") > 1 else None
    return None if twice is None else ("ambiguous", f'"{twice}" comes twice in one object; name each field once')


def _named_twice(body: bytes) -> str | None:
    """Return the first field that comes twice in one object: decoders would silently take the last."""
    found: list[str] = []

    def look(pairs: list[tuple[str, Any]]) -> None:
        if len({name for name, _ in pairs}) < len(pairs):
            counts = collections.Counter(name for name, _ in pairs)
            found.append(counts.most_common(1)[0][0])

    try:
        json.loads(body.decode(), object_pairs_hook=look, parse_int=str, parse_float=str)
    except (ValueError, RecursionError):
        return None
    return found[0] if found else None
