"""What other services let their users take along, read as links; each format is told by what the file says, not by its name."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Final, get_args
from urllib.parse import urlsplit, urlunsplit

import msgspec
from msgspec import Struct

from read_later import csv_exports, html_exports, json_exports
from read_later.links import Link, Refused
from read_later.messages import Source

LARGEST: Final = 50 * 1024 * 1024
LONGEST_URL: Final = 2000
SOURCES: Final[tuple[Source, ...]] = get_args(Source)

_READERS: Final[tuple[Callable[[str], tuple[Source, Iterable[Link]] | None], ...]] = (
    json_exports.read,
    html_exports.read,
    csv_exports.read,
)


class Export(Struct, frozen=True):
    """The links of one file, each address once, and how many it had that lead to no web page or were said again."""

    source: Source
    links: list[Link]
    skipped: int
    repeated: int


def read_export(content: bytes) -> Export:
    """Read an export of any known service; raises `Refused` with a sentence for its user."""
    if len(content) > LARGEST:
        raise Refused(f"This file is larger than {LARGEST // 1024 // 1024} MB. Export your links in several files.")
    if not content.strip():
        raise Refused("This file is empty. Export your links again, and look whether the file has a size before you upload it.")
    text = _text(content)
    for reader in _READERS:
        if (found := reader(text)) is not None:
            return _export(*found)
    known = ", ".join(sorted(name.capitalize() for name in SOURCES if name != "netscape"))
    raise Refused(f"This file is no export that is known here. Known are those of {known}, and bookmarks in HTML (Netscape, Shaarli).")


def _text(content: bytes) -> str:
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16", errors="replace")
    if b"\0" in content[:4096]:
        raise Refused("This file is no text, so it is no export of links. Unpack it first if it is an archive.")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252", errors="replace")  # what old exports of Windows are


def _export(source: Source, links: Iterable[Link]) -> Export:
    kept = dict[str, Link]()
    skipped = repeated = 0
    for link in links:
        url = normalized(link.url)
        if url is None:
            skipped += 1
        elif url in kept:
            repeated += 1
            kept[url] = _together(kept[url], link)
        else:
            title = "" if link.title == link.url else " ".join(link.title.split())  # Pocket gives the address for want of a title
            kept[url] = msgspec.structs.replace(link, url=url, title=title, tags=_tidy(link.tags))
    if not kept:
        raise Refused(f"This {source.capitalize()} file holds no link to a web page, so there is nothing to import.")
    return Export(source, list(kept.values()), skipped, repeated)


def _together(first: Link, second: Link) -> Link:
    return msgspec.structs.replace(
        first,
        tags=_tidy((*first.tags, *second.tags)),
        archived=first.archived or second.archived,
        starred=first.starred or second.starred,
    )


def _tidy(tags: Iterable[str]) -> tuple[str, ...]:
    """Return tags without doubles, in their order."""
    return tuple(dict.fromkeys(tag for raw in tags if (tag := " ".join(raw.split())[:100])))


def normalized(url: str) -> str | None:
    """Return the address as it is compared: two that differ here are two articles; None for what is no web page."""
    url = re.sub(r"[\t\r\n]", "", url.strip()).replace(" ", "%20")
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").rstrip("."), parts.port
    except ValueError:
        return None
    if parts.scheme not in ("http", "https") or not host or len(url) > LONGEST_URL or re.search(r"[\s\x00-\x1f\x7f]", url):
        return None
    if ":" in host:
        host = f"[{host}]"
    netloc = host if port in (None, {"http": 80, "https": 443}[parts.scheme]) else f"{host}:{port}"
    return urlunsplit((parts.scheme, netloc, parts.path or "/", parts.query, parts.fragment))


__all__ = ["Export", "Link", "Refused", "normalized", "read_export"]
