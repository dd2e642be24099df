"""What users have in read later: every method is one short transaction."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import Any, Final

from msgspec import Struct
from sqlalchemy import ColumnElement, Connection, Engine, Text, cast, create_engine, delete, event, func, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session, undefer

from read_later.exports import Export
from read_later.fetching import FetchedPage
from read_later.messages import FetchArticle
from read_later.tables import PENDING, Article, Import, Page, Table

_RECENT: Final = dt.timedelta(seconds=10)
_AT_ONCE: Final = 500

Send = Callable[[Session, Sequence[FetchArticle]], object]


class Progress(Struct, frozen=True):
    """How far an import is; `rate` is articles a second of late, `left` the seconds that are left at this rate."""

    total: int
    done: int
    failed: int
    rate: float
    left: float | None

    @property
    def ended(self) -> int:
        """How many have ended, one way or the other."""
        return self.done + self.failed

    @property
    def is_over(self) -> bool:
        """Whether all have ended."""
        return self.ended == self.total


def open_engine(url: str) -> Engine:
    """Return the engine of a database, with the tables made if they are missing."""
    engine = create_engine(url, **({"connect_args": {"timeout": 30.0}} if url.startswith("sqlite") else {"pool_pre_ping": True}))
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    Table.metadata.create_all(engine)
    return engine


def _prepare_sqlite(connection: Any, _: object) -> None:
    connection.isolation_level = None  # transactions begin where we say so
    for pragma in ("journal_mode = WAL", "synchronous = NORMAL", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    # A transaction that reads first and writes then would fail as "locked", however long one waits.
    mode = "DEFERRED" if connection.get_execution_options().get("reads") else "IMMEDIATE"
    connection.exec_driver_sql(f"BEGIN {mode}")


class Library:
    """The articles and imports of all users."""

    def __init__(self, engine: Engine, now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC)) -> None:
        self._engine = engine
        self._reading = engine.execution_options(reads=True)
        self._now = now

    @contextmanager
    def writing(self) -> Generator[Session]:
        """Begin a transaction that writes."""
        with Session(self._engine) as session, session.begin():
            yield session

    @contextmanager
    def reading(self) -> Generator[Session]:
        """Begin a transaction that only reads."""
        with Session(self._reading, expire_on_commit=False) as session, session.begin():
            yield session

    def begin(self, user: str, filename: str, export: Export, send: Send) -> int:
        """Store an import with those of its links that the user does not have yet, and a command for each; return its number."""
        with self.writing() as session:
            one = Import(
                user=user, source=export.source, filename=filename[:255], began_at=self._now(), links=len(export.links),
                known=0, skipped=export.skipped, repeated=export.repeated,
            )  # fmt: skip
            session.add(one)
            session.flush()
            rows = [
                {
                    "user": user, "url": link.url, "import_id": one.id, "source": export.source, "title": link.title,
                    "tags": list(link.tags), "archived": link.archived, "starred": link.starred, "added_at": link.added or one.began_at,
                }
                for link in export.links
            ]  # fmt: skip
            insert_new = sqlite.insert if self._engine.dialect.name == "sqlite" else postgresql.insert
            session.execute(insert_new(Article).on_conflict_do_nothing(index_elements=["user", "url"]), rows)
            new = session.scalars(select(Article.id).where(Article.import_id == one.id).order_by(Article.id)).all()
            one.known = len(export.links) - len(new)
            send(session, [FetchArticle(source=export.source, article=number) for number in new])
            return one.id

    def retry(self, user: str, send: Send, *, article: int | None = None, import_id: int | None = None) -> int:
        """Have failed articles of a user fetched again, one or those of an import, and say how many."""
        which = select(Article.id, Article.source, Article.retries + 1).where(Article.user == user, Article.state == "failed")
        which = which.where(Article.id == article) if article is not None else which.where(Article.import_id == import_id)
        with self.writing() as session:
            found = session.execute(which.order_by(Article.id)).all()
            for chunk in _chunks([number for number, *_ in found]):
                again = {"state": "waiting", "error": None, "ended_at": None, "retries": Article.retries + 1}
                session.execute(update(Article).where(Article.id.in_(chunk)).values(again))
            send(session, [FetchArticle(source=source, article=number, retries=retries) for number, source, retries in found])
            return len(found)

    # --- what workers do: a statement or two each, for which a session would only cost time

    def url_of(self, article: int) -> str | None:
        """Return the address of an article that waits to be fetched; None if it does not, or not any more."""
        with self._reading.begin() as connection:
            return connection.scalar(select(Article.url).where(Article.id == article, Article.state == "waiting"))

    def fetched(self, article: int, page: FetchedPage) -> bool:
        """Keep the page of an article that waits; False if it does not wait any more."""
        with self._engine.begin() as connection:
            if not self._change(connection, Article.id == article, "waiting", state="fetched", final_url=page.url):
                return False
            kept = {"article_id": article, "body": page.body, "is_packed": page.is_packed, "charset": page.charset}
            connection.execute(insert(Page), kept)
        return True

    def page_of(self, article: int) -> FetchedPage | None:
        """Return the page of an article as its server sent it; None if it was read already."""
        wanted = select(Page.body, Article.final_url, Page.is_packed, Page.charset).join(Article)
        with self._reading.begin() as connection:
            row = connection.execute(wanted.where(Article.id == article)).first()
        return None if row is None else FetchedPage(*row)

    def extracted(self, article: int, text: str, *, title: str, author: str | None, published: str | None) -> None:
        """Keep what a page says; the title of the export stays if there is one."""
        with self._engine.begin() as connection:
            kept = func.coalesce(func.nullif(Article.title, ""), title)
            values = {"text": text, "title": kept, "author": author, "published": published, "words": len(text.split())}
            if self._change(connection, Article.id == article, "fetched", state="done", ended_at=self._now(), error=None, **values):
                connection.execute(delete(Page).where(Page.article_id == article))

    def failed(self, article: int, why: str, *, retries: int | None = None) -> bool:
        """End an article that is pending without a text: its title and link stay, with the reason.

        False if it is not pending, or was retried another number of times.
        """
        which = Article.id == article
        if retries is not None:
            which &= Article.retries == retries
        with self._engine.begin() as connection:
            # The article first: its lock keeps a page from coming between the two.
            if not self._change(connection, which, *PENDING, state="failed", ended_at=self._now(), error=why):
                return False
            connection.execute(delete(Page).where(Page.article_id == article))
        return True

    def _change(self, connection: Connection, which: ColumnElement[bool], *states: str, **values: Any) -> bool:
        changed: Any = connection.execute(update(Article).where(which, Article.state.in_(states)).values(**values))
        return changed.rowcount == 1

    # --- what pages show

    def imports(self, user: str) -> list[Import]:
        """List the imports of a user, the latest first."""
        with self.reading() as session:
            return list(session.scalars(select(Import).where(Import.user == user).order_by(Import.id.desc()).limit(100)))

    def one_import(self, user: str, number: int) -> Import | None:
        """Return an import of a user."""
        with self.reading() as session:
            return session.scalar(select(Import).where(Import.user == user, Import.id == number))

    def progress(self, number: int) -> Progress:
        """Count how far an import is."""
        with self.reading() as session:
            counts = dict(
                session.execute(select(Article.state, func.count()).where(Article.import_id == number).group_by(Article.state)).all()
            )
            late = session.scalar(
                select(func.count()).where(
                    Article.import_id == number, Article.state.in_(("done", "failed")), Article.ended_at > self._now() - _RECENT
                )
            )
        rate = (late or 0) / _RECENT.total_seconds()
        pending = sum(counts.get(state, 0) for state in PENDING)
        left = pending / rate if pending and rate else None
        return Progress(sum(counts.values()), counts.get("done", 0), counts.get("failed", 0), rate, left)

    def articles(
        self,
        user: str,
        *,
        import_id: int | None = None,
        state: str | None = None,
        tag: str = "",
        kind: str = "",
        page: int = 1,
        size: int = 50,
    ) -> tuple[list[Article], int]:
        """List articles of a user, those saved last first, of one import those that ended last, and count all of them."""
        which = select(Article).where(Article.user == user)
        order = [Article.added_at.desc(), Article.id.desc()]
        if import_id is not None:
            which = which.where(Article.import_id == import_id)
            order.insert(0, Article.ended_at.desc().nulls_last())
        if state is not None:
            which = which.where(Article.state.in_(PENDING) if state == "waiting" else Article.state == state)
        if kind in ("archived", "starred"):
            which = which.where(getattr(Article, kind).is_(True))
        elif kind == "unread":
            which = which.where(Article.archived.is_(False))
        if tag:
            # A list is kept as JSON in both databases; a tag stands in it as the text that JSON makes of it.
            which = which.where(cast(Article.tags, Text).contains(json.dumps(tag), autoescape=True))
        with self.reading() as session:
            count = session.scalar(select(func.count()).select_from(which.subquery())) or 0
            ordered = which.order_by(*order).offset((page - 1) * size).limit(size)
            return list(session.scalars(ordered)), count

    def article(self, user: str, number: int) -> Article | None:
        """Return an article of a user."""
        with self.reading() as session:
            found = select(Article).where(Article.user == user, Article.id == number)
            return session.scalar(found.options(undefer(Article.text)))


def _chunks(values: Sequence[Any]) -> Iterable[Sequence[Any]]:
    """Return parts that fit into one statement."""
    return (values[start : start + _AT_ONCE] for start in range(0, len(values), _AT_ONCE))
