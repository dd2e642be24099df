"""The application's own tables, in SQLite or PostgreSQL."""

from __future__ import annotations

import datetime as dt
from typing import Any, Final, Literal

from sqlalchemy import JSON, DateTime, Dialect, ForeignKey, Index, LargeBinary, String, Text, TypeDecorator, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from read_later.messages import Source

State = Literal["waiting", "fetched", "done", "failed"]
PENDING: Final = ("waiting", "fetched")


class _Utc(TypeDecorator[dt.datetime]):
    """A time in UTC: SQLite would give it back without its zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: dt.datetime | None, dialect: Dialect) -> Any:
        return None if value is None else value.astimezone(dt.UTC)

    def process_result_value(self, value: Any | None, dialect: Dialect) -> dt.datetime | None:
        return None if value is None else value.replace(tzinfo=dt.UTC) if value.tzinfo is None else value


class Table(DeclarativeBase):
    """What all tables share."""

    type_annotation_map = {dt.datetime: _Utc, list[str]: JSON}  # noqa: RUF012 - the way SQLAlchemy reads it


class Import(Table):
    """One file that a user uploaded."""

    __tablename__ = "import"

    id: Mapped[int] = mapped_column(primary_key=True)
    user: Mapped[str] = mapped_column(String(100), index=True)
    source: Mapped[Source] = mapped_column(String(20))
    filename: Mapped[str] = mapped_column(String(255))
    began_at: Mapped[dt.datetime]
    links: Mapped[int]  # how many different ones stood in the file
    known: Mapped[int]  # of them: how many the user had already
    skipped: Mapped[int]
    repeated: Mapped[int]


class Article(Table):
    """A link of a user, and what its page said. `error` says why there is no text."""

    __tablename__ = "article"
    __table_args__ = (UniqueConstraint("user", "url"), Index("article_by_import", "import_id", "state", "ended_at"))

    id: Mapped[int] = mapped_column(primary_key=True)
    user: Mapped[str] = mapped_column(String(100))
    url: Mapped[str] = mapped_column(String(2000))
    import_id: Mapped[int] = mapped_column(ForeignKey("import.id"))
    source: Mapped[Source] = mapped_column(String(20))
    state: Mapped[str] = mapped_column(String(10), default="waiting")
    title: Mapped[str] = mapped_column(Text, default="")
    tags: Mapped[list[str]] = mapped_column(default=list)
    archived: Mapped[bool] = mapped_column(default=False)
    starred: Mapped[bool] = mapped_column(default=False)
    added_at: Mapped[dt.datetime | None]
    ended_at: Mapped[dt.datetime | None]
    error: Mapped[str | None] = mapped_column(Text)
    final_url: Mapped[str | None] = mapped_column(Text)
    text: Mapped[str | None] = mapped_column(Text, deferred=True)
    author: Mapped[str | None] = mapped_column(Text)
    published: Mapped[str | None] = mapped_column(String(20))
    words: Mapped[int] = mapped_column(default=0)
    retries: Mapped[int] = mapped_column(default=0)  # how often its user had it fetched again


class Page(Table):
    """A page between being fetched and being read, as its server sent it."""

    __tablename__ = "page"

    article_id: Mapped[int] = mapped_column(ForeignKey("article.id"), primary_key=True)
    body: Mapped[bytes] = mapped_column(LargeBinary)
    is_packed: Mapped[bool]
    charset: Mapped[str | None] = mapped_column(String(100))
