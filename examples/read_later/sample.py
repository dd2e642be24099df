"""An export of several hundred real links as Pocket would write it, and the real exports of the shared data."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, cast

from lxml import etree as _etree  # pyright: ignore[reportAttributeAccessIssue, reportUnknownVariableType]

etree: Final[Any] = cast("Any", _etree)  # lxml brings no types
MOST: Final = 450
_BEGAN: Final = 1_600_000_000
_TAGS: Final = ("", "", "read", "python|tools", "recipes", "to share")


def shared_data() -> Path | None:
    """Find the folder of real data: in `CHAPPE_SHARED`, or in `shared` beside the repository."""
    folder = Path(os.environ.get("CHAPPE_SHARED") or Path(__file__).resolve().parents[2].parent / "shared") / "data"
    return folder if folder.is_dir() else None


def real_exports() -> list[Path]:
    """Return the real exports of other services that are at hand."""
    data = shared_data()
    skipped = (".md", ".jsonl")
    return [file for file in sorted((data / "imports/wallabag").iterdir()) if file.suffix not in skipped] if data else []


def write_pocket_export(path: Path, most: int = MOST) -> int:
    """Write a Pocket export with real links, or invented ones where the real ones are not at hand; return how many."""
    data = shared_data()
    links = dict(_real(data) if data else ((f"https://paper{n % 17}.example.net/{n}/", f"Article {n}") for n in range(most)))
    rows = list(links.items())[:most]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["title", "url", "time_added", "tags", "status"])
        for number, (url, title) in enumerate(rows):
            state = "archive" if number % 5 == 0 else "unread"
            writer.writerow([title or url, url, _BEGAN + number * 86_400, _TAGS[number % len(_TAGS)], state])
    return len(rows)


def _real(data: Path) -> Iterator[tuple[str, str]]:
    """Return the addresses of the real pages, and what real feeds link to."""
    for one in json.loads((data / "web/aeb/ground-truth.json").read_text()).values():
        yield one["url"], ""
    for file in sorted((data / "feeds/rss-parser").iterdir()):
        try:
            feed = etree.parse(file, etree.XMLParser(recover=True, resolve_entities=False, no_network=True))
        except (OSError, etree.XMLSyntaxError):
            continue
        for item in feed.iter("{*}item", "{*}entry"):
            title, link = item.find("{*}title"), item.find("{*}link")
            url = "" if link is None else (link.get("href") or link.text or "").strip()
            if url.startswith("http"):
                yield url, " ".join(("" if title is None else title.text or "").split())
