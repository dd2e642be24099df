"""Makes new inputs from valid ones: flipped, cut, spliced and repeated, by a seed that can be said again."""

from __future__ import annotations

import random
from collections.abc import Sequence

# What decoders stumble over: borders of numbers and lengths, the beginnings of MessagePack, JSON, TOML and HTTP values.
TOKENS = [
    b"\x00", b"\xff", b"\xc1", b"\xcf" + b"\xff" * 8, b"\xd3\x80" + b"\x00" * 7, b"\xcb\x7f\xf0" + b"\x00" * 6, b"\xcb\x7f\xf8" + b"\x00" * 6,
    b"\xdc\xff\xff", b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xd4\x01\x00", b"\xd6\xff\x00\x00\x00\x00",
    b"{", b"}", b"[", b"]", b'"', b"\\", b":", b",", b"null", b"true", b"NaN", b"1e999", b"-0", b"18446744073709551616", b"9" * 4400, b"\\ud800", b"\\u0000",
    b"\xef\xbb\xbf", b"\xed\xa0\x80", b"[" * 70, b'{"a":' * 70, b"*", b"#", b".", b"/", b"-", b"@", b"{}", b"{a!r}", b"{a:>9999999}", b"=", b"nan", b"inf",
    b"\r\n", b"\r\n\r\n", b" ", b"Transfer-Encoding: chunked\r\n", b"Content-Length: 9\r\n", b"Host: x\r\n", b"0", b"1", b"-1", b"60", b"1-5", b"*/0", b"L", b"W",
]  # fmt: skip


class Mutator:
    """Return inputs without end, each made from one or two of the seeds."""

    def __init__(self, seeds: Sequence[bytes], seed: int) -> None:
        self._seeds = list(seeds)
        self._chance = random.Random(seed)

    def next(self) -> bytes:
        """Return the next input."""
        chance = self._chance
        data = bytearray(chance.choice(self._seeds))
        for _ in range(1 + int(chance.expovariate(0.7))):
            self._edit(data)
        return bytes(data[:65536])

    def _edit(self, data: bytearray) -> None:
        chance = self._chance
        kind = int(chance.random() * 8)
        at = int(chance.random() * (len(data) + 1))
        if kind == 0 and at < len(data):
            data[at] ^= 1 << int(chance.random() * 8)
        elif kind == 1 and at < len(data):
            data[at] = int(chance.random() * 256)
        elif kind == 2:
            del data[at:]
        elif kind == 3:
            del data[at : at + 1 + int(chance.random() * 8)]
        elif kind == 4:
            data[at:at] = chance.choice(TOKENS)
        elif kind == 5:
            other = chance.choice(self._seeds)
            data[at:] = other[int(chance.random() * (len(other) + 1)) :]
        elif kind == 6:
            end = at + 1 + int(chance.random() * 16)
            data[at:at] = data[at:end] * (1 + int(chance.random() * 4))
        else:
            data[at:at] = chance.randbytes(1 + int(chance.random() * 6))
