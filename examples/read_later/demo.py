"""`make demo-import`: several hundred real links from a Pocket export, fetched from a web that misbehaves, and checked at the end."""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import httpx2
from msgspec import Struct
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text
from sqlalchemy import func, select

from demos import leave_running, options_of, servers
from read_later.application import outbox
from read_later.exports import Export, read_export
from read_later.library import Library, open_engine
from read_later.local_web import READABLE, Fate, fate_of
from read_later.sample import MOST, real_exports, write_pocket_export
from read_later.stage import Stage
from read_later.tables import Article, Page

_PATIENCE = 600.0


class Uploaded(Struct):
    """A file that was imported, and how long its answer took."""

    file: Path
    export: Export
    number: int
    seconds: float


class Reader:
    """Somebody who opens a page while imports run, some `pause` of seconds after each answer."""

    def __init__(self, stage: Stage, pause: float = 0.2) -> None:
        self._pause = pause
        self._url = f"{stage.pages_url}/articles"
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._read, name="reader")
        self.seconds = list[float]()
        self.failed = 0

    def _read(self) -> None:
        with httpx2.Client(timeout=10.0, trust_env=False) as http:
            while not self._over.wait(self._pause):
                started = time.perf_counter()
                try:
                    http.get(self._url).raise_for_status()
                except httpx2.HTTPError:
                    self.failed += 1
                self.seconds.append(time.perf_counter() - started)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def milliseconds(self, part: int) -> float:
        """Return within how many milliseconds so many percent of the answers came."""
        ordered = sorted(self.seconds) or [0.0]
        return ordered[len(ordered) * part // 100] * 1000

    def __str__(self) -> str:
        median, slow = self.milliseconds(50), self.milliseconds(95)
        return f"{len(self.seconds)} pages, half of them in {median:.0f} ms, 95 % in {slow:.0f} ms, {self.failed} failed"


def upload(stage: Stage, file: Path) -> Uploaded:
    """Upload a file and return what it was answered; raises if it was refused."""
    started = time.perf_counter()
    answer = stage.upload(file)
    seconds = time.perf_counter() - started
    if answer.status_code != 202:
        raise RuntimeError(f"{file.name} was answered {answer.status_code}: {answer.text}")
    return Uploaded(file, read_export(file.read_bytes()), answer.json()["id"], seconds)


def drawing(uploads: list[Uploaded], found: list[Mapping[str, Any]], queues: Mapping[str, Mapping[str, Any]]) -> Group:
    """Return what goes on now."""
    table = Table(title="read later", title_justify="left", header_style="bold", box=None, padding=(0, 2, 0, 0))
    for column in ("import", "", "ended", "of", "no text", "a second", "left"):
        table.add_column(column, justify="left" if column in ("import", "") else "right", no_wrap=True)
    for one, now in zip(uploads, found, strict=True):
        ended = now["done"] + now["failed"]
        left = "done" if now["over"] else f"{now['seconds_left']:.0f} s" if now["seconds_left"] else "…"
        bar = ProgressBar(total=max(1, now["total"]), completed=ended if now["total"] else 1, width=36)
        table.add_row(
            f"{one.export.source} ({one.file.name})", bar, str(ended), str(now["total"]), str(now["failed"]), f"{now['rate']:.1f}", left
        )
    waiting = {name: (q["ready"], q["running"], q["delayed"]) for name, q in queues.items() if q["ready"] or q["running"] or q["delayed"]}
    line = " · ".join(f"{name} {ready} ready, {running} running, {later} later" for name, (ready, running, later) in waiting.items())
    return Group(table, Text(line or "no queue holds anything", style="dim"))


def watch(stage: Stage, console: Console, uploads: list[Uploaded]) -> float:
    """Show how far the imports are until all have ended, and return the seconds it took."""
    started = time.monotonic()
    said = -10.0
    with Live(console=console, auto_refresh=False) as live:
        while (passed := time.monotonic() - started) < _PATIENCE:
            found = [stage.progress(one.number) for one in uploads]
            picture = drawing(uploads, found, stage.queues())
            if console.is_terminal:
                live.update(picture, refresh=True)
            elif passed - said >= 10.0:
                said = passed
                console.print(picture)
            if all(one["over"] for one in found):
                break
            time.sleep(0.3)
    return time.monotonic() - started


def check(stage: Stage, uploads: list[Uploaded]) -> tuple[list[str], Counter[Fate], Counter[str]]:
    """Compare the database with the files and with what the web did; return what is wrong, the fates and the reasons."""
    engine = open_engine(stage.urls["READ_LATER_DATABASE"])
    with Library(engine).reading() as session:
        articles = {a.url: a for a in session.scalars(select(Article))}
        rows = session.scalar(select(func.count()).select_from(Article))
        pages = session.scalar(select(func.count()).select_from(Page))
        unsent = session.scalar(select(func.count()).select_from(outbox.table))
        texts = dict(session.execute(select(Article.url, Article.text)).all())
    engine.dispose()
    must = {link.url: link for one in reversed(uploads) for link in one.export.links}
    wrong = list[str]()
    if rows != len(must) or articles.keys() != must.keys():
        wrong.append(f"{len(must)} articles were uploaded, and {rows} are in the database")
    if unsent:
        wrong.append(f"{unsent} commands wait in the outbox")
    if pages:
        wrong.append(f"{pages} pages were fetched and never read")
    for url, link in must.items():
        article = articles.get(url)
        if article is None:
            wrong.append(f"{url} is missing")
        elif (article.state == "done") != (fate_of(url) in READABLE) and "no text" not in (article.error or ""):
            wrong.append(f"{url} ({fate_of(url)}) is {article.state}: {article.error}")
        elif article.state == "done" and ("\ufffd" in (texts[url] or "") or not texts[url]):
            wrong.append(f"{url} ({fate_of(url)}) has letters that are none")
        elif article.archived != link.archived or article.tags != list(link.tags) or (link.title and article.title != link.title):
            wrong.append(f"{url} is not as it was exported")
    return wrong, Counter(fate_of(url) for url in must), Counter(a.state for a in articles.values())


def report(stage: Stage, console: Console, uploads: list[Uploaded], reader: Reader, seconds: float) -> bool:
    """Print the summary and say whether everything is as it must be."""
    again = upload(stage, uploads[0].file)
    new = stage.progress(again.number)["total"]
    wrong, fates, states = check(stage, uploads)
    dead = sum(q["dead"] for q in stage.queues().values())
    slowest = max(uploads, key=lambda one: one.seconds)
    console.print()
    console.print(f"answered after     {slowest.seconds * 1000:.0f} ms at most, the file with {len(slowest.export.links)} links")
    console.print(f"articles           {sum(states.values())} from {len(uploads)} files in {seconds:.0f} s: {dict(states)}")
    console.print(f"what the web did   {', '.join(f'{fate} {n}' for fate, n in fates.most_common())}")
    console.print(f"a reader meanwhile {reader}")
    console.print(f"dead letters       {dead}")
    console.print(f"uploaded again     {uploads[0].file.name}: {new} new articles")
    if wrong:
        console.print(f"[bold red]checked            {len(wrong)} differences[/], the first: {wrong[0]}")
    else:
        console.print(
            "[bold green]checked            every article is there exactly once, has ended, and is as its page and its export say[/]"
        )
    console.print()
    console.print("look at next       examples/read_later/README.md · messages.py · handlers.py · pages.py")
    console.print(f"what was logged    {stage.folder}/*.log")
    return not wrong and not new and not dead and not reader.failed


def with_articles(urls: Mapping[str, str]) -> Mapping[str, str]:
    """Return where messages wait, and the articles, too: PostgreSQL that is there already is the application's own."""
    postgres = urls.get("CHAPPE_STORE") or urls.get("CHAPPE_BROKER")
    return {**urls, "READ_LATER_DATABASE": postgres.replace("://", "+psycopg://", 1)} if postgres else urls


def main() -> None:
    """Run the demo; the exit code is 0 only if everything is right."""
    options = options_of(__doc__, "file", "postgres", "rabbitmq")
    options.add_argument("--links", type=int, default=MOST, help="how many links the Pocket export has at most")
    options.add_argument("--governor", action="store_true", help="have workers make room for readers, as chappe.toml says")
    chosen = options.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 130, highlight=False)
    folder = (chosen.folder or Path(tempfile.mkdtemp(prefix="chappe-import-"))).resolve()
    with servers(chosen.broker, folder, console) as urls, Stage(folder, urls=with_articles(urls), governed=chosen.governor) as stage:
        console.print("starting the local web, chappe run, and the pages …")
        stage.start_web()
        stage.start_pages()
        stage.start_chappe()
        console.print(f"the pages are at   [bold]{stage.pages_url}[/]")
        write_pocket_export(folder / "part_000000.csv", chosen.links)
        with Reader(stage) as reader:
            uploads = [upload(stage, file) for file in (folder / "part_000000.csv", *real_exports())]
            seconds = watch(stage, console, uploads)
        right = report(stage, console, uploads, reader, seconds)
        if chosen.keep:
            console.print(f"\n[bold]left running[/] at {stage.pages_url} (Ctrl-C ends it): upload a file there, or")
            console.print(f"  curl -F file=@{folder}/part_000000.csv {stage.pages_url}/imports")
            leave_running(console)
    sys.exit(0 if right else 1)


if __name__ == "__main__":
    main()
