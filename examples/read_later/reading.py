"""Reads a page as its server sent it: unpacks it within a bound, and decodes it as what it most likely is."""

from __future__ import annotations

import codecs
import re
import zlib
from collections.abc import Sequence
from typing import Final

from charset_normalizer import from_bytes

from read_later.fetching import LARGEST_PAGE, FetchedPage

_META_CHARSET: Final = re.compile(rb"""<meta[^>]{0,200}?charset\s*+=\s*+["']?\s*+([\w.:-]{1,40})""", re.IGNORECASE)

_NO_CHARSETS: Final = {"punycode", "idna", "undefined", "utf-7", "unicode-escape", "raw-unicode-escape"}


class Unreadable(Exception):
    """The page cannot be read: the message is a sentence for its user."""


def html_of(page: FetchedPage) -> str:
    """Return the text of a page; raises `Unreadable`."""
    return _decoded(_unpacked(page.body) if page.is_packed else page.body, page.charset)


def _unpacked(body: bytes) -> bytes:
    """Unpack no more than the bound: a small answer may hold a very large one."""
    unpack = zlib.decompressobj(31)
    try:
        found = unpack.decompress(body, LARGEST_PAGE + 1)
    except zlib.error:
        raise Unreadable("its server packs it in a way that cannot be read") from None
    if len(found) > LARGEST_PAGE:
        raise Unreadable(f"it is larger than {LARGEST_PAGE // 1024 // 1024} MB")
    return found


def _decoded(body: bytes, declared: str | None) -> str:
    """Return the text as what it says it is, if that can be, or else as what it most likely is."""
    meta = _META_CHARSET.search(body[:4096])
    for charset in _candidates(body, declared, meta.group(1).decode("ascii", "replace") if meta else None):
        try:
            return body.decode(charset)
        except (ValueError, LookupError):  # not all that Python knows are of text
            continue
    best = from_bytes(body[: 256 * 1024]).best()
    return body.decode(best.encoding if best else "utf-8", errors="replace")


def _is_known(name: str) -> bool:
    """Tell whether a browser could know it: Python also has some that take long, or make what is no text."""
    try:
        return codecs.lookup(name).name.replace("_", "-") not in _NO_CHARSETS
    except (ValueError, LookupError):
        return False


def _candidates(body: bytes, declared: str | None, meta: str | None) -> Sequence[str]:
    marked = "utf-8-sig" if body.startswith(b"\xef\xbb\xbf") else "utf-16" if body.startswith((b"\xff\xfe", b"\xfe\xff")) else None
    # Everywhere on the web these mean the larger set of Windows (https://encoding.spec.whatwg.org).
    windows = {"iso-8859-1": "cp1252", "latin-1": "cp1252", "us-ascii": "cp1252", "latin1": "cp1252"}
    named = [windows.get(name.lower(), name) for name in (declared, meta) if name and _is_known(name)]
    return [name for name in (marked, *named, "utf-8") if name]
