"""Imports, duplicates, progress and lists of articles, in SQLite and PostgreSQL."""

import datetime as dt

import pytest
from sqlalchemy import func, select

from read_later.exports import Export
from read_later.fetching import FetchedPage
from read_later.library import Library, open_engine
from read_later.links import Link
from read_later.messages import FetchArticle
from read_later.tables import Article

NOON = dt.datetime(2026, 11, 29, 12, 0, tzinfo=dt.UTC)


def links(*numbers: int) -> list[Link]:
    return [Link(f"https://paper.example/{n}", f"Article {n}", NOON - dt.timedelta(days=n)) for n in numbers]


def begin(library: Library, found: list[Link], user: str = "ada") -> tuple[int, list[FetchArticle]]:
    sent = list[FetchArticle]()
    return library.begin(user, "export.csv", Export("pocket", found, 0, 0), lambda _, commands: sent.extend(commands)), sent


def test_w20_importing_twice_makes_no_duplicates_and_sends_nothing(either_library: Library) -> None:
    library = either_library
    first, sent = begin(library, links(1, 2, 3))
    assert len({command.article for command in sent}) == 3
    second, sent = begin(library, links(1, 2, 3))
    assert sent == []
    third, sent = begin(library, links(3, 4))
    assert len(sent) == 1
    assert [library.progress(number).total for number in (first, second, third)] == [3, 0, 1]
    assert [(one.links, one.known) for one in library.imports("ada")] == [(2, 1), (3, 3), (3, 0)]
    with library.reading() as session:
        assert session.scalar(select(func.count()).select_from(Article)) == 4


def test_w20_two_users_have_each_their_own(either_library: Library) -> None:
    library = either_library
    begin(library, links(1, 2))
    number, sent = begin(library, links(1, 2), user="bo")
    assert len(sent) == 2
    assert library.one_import("ada", number) is None
    assert library.articles("ada", import_id=number) == ([], 0)
    assert library.article("ada", sent[0].article) is None
    library.failed(sent[0].article, "it is gone")
    assert library.retry("ada", lambda *_: None, article=sent[0].article) == 0


def test_an_import_that_cannot_be_sent_is_not_there(either_library: Library) -> None:
    library = either_library

    def fails(*_: object) -> None:
        raise ConnectionError

    with pytest.raises(ConnectionError):
        library.begin("ada", "export.csv", Export("pocket", links(1), 0, 0), fails)
    assert library.imports("ada") == []
    assert library.articles("ada") == ([], 0)


def test_w17_progress_counts_ended_articles_and_foretells_the_end(tmp_path) -> None:
    time = [NOON]
    engine = open_engine(f"sqlite:///{tmp_path / 'clock.db'}")
    library = Library(engine, lambda: time[0])
    number, sent = begin(library, links(*range(30)))
    assert library.progress(number).left is None
    for command in sent[:20]:
        time[0] += dt.timedelta(seconds=0.5)
        library.failed(command.article, "it is gone")
    progress = library.progress(number)
    assert (progress.total, progress.ended, progress.failed, progress.is_over) == (30, 20, 20, False)
    assert (progress.rate, progress.left) == (2.0, 5.0)
    time[0] += dt.timedelta(minutes=1)
    assert library.progress(number).left is None
    engine.dispose()


def test_articles_are_listed_by_state_kind_and_tag(either_library: Library) -> None:
    library = either_library
    found = [
        Link("https://paper.example/1", "One", NOON, ("ça", 'quo"te'), archived=True),
        Link("https://paper.example/2", "Two", NOON, ("ça va", "50%"), starred=True),
        Link("https://paper.example/3", "Three", NOON + dt.timedelta(days=1)),
    ]
    number, sent = begin(library, found)
    library.failed(sent[2].article, "it is gone")

    def titles(**which: object) -> list[str]:
        listed, count = library.articles("ada", **which)  # type: ignore[arg-type]
        assert count == len(listed)
        return [article.title for article in listed]

    assert titles() == ["Three", "Two", "One"]
    assert titles(import_id=number, state="failed") == ["Three"]
    assert titles(state="waiting") == ["Two", "One"]
    assert titles(kind="archived") == ["One"]
    assert titles(kind="starred") == ["Two"]
    assert titles(kind="unread") == ["Three", "Two"]
    assert titles(tag="ça") == ["One"]
    assert titles(tag='quo"te') == ["One"]
    assert titles(tag="50%") == ["Two"]
    assert titles(tag="%") == []
    assert [a.title for a in library.articles("ada", page=2, size=2)[0]] == ["One"]


def test_what_workers_keep_of_a_page_is_the_articles_in_either_database(either_library: Library) -> None:
    library = either_library
    number, (one, two) = begin(library, [Link("https://paper.example/1", "", NOON, ("a",)), *links(2)])
    assert library.url_of(one.article) == "https://paper.example/1"
    page = FetchedPage("<p>é</p>".encode(), "https://paper.example/final", is_packed=False, charset="utf-8")
    assert library.fetched(one.article, page)
    assert library.fetched(two.article, FetchedPage(b"packed", "https://paper.example/2", is_packed=True))
    assert library.url_of(one.article) is None
    assert library.page_of(one.article) == page
    library.extracted(one.article, "three words é", title="Its own", author="A", published="2020-01-01")
    library.extracted(two.article, "x", title="Its own", author=None, published=None)
    assert not library.fetched(one.article, page)
    assert not library.failed(one.article, "late")
    assert library.page_of(one.article) is None
    found = library.article("ada", one.article)
    assert found is not None
    assert (found.state, found.title, found.text, found.words, found.tags, found.added_at) == (
        "done",
        "Its own",
        "three words é",
        3,
        ["a"],
        NOON,
    )
    assert [a.title for a in library.articles("ada", import_id=number)[0]] == ["Article 2", "Its own"]  # those that ended last first


def test_a_page_is_there_only_while_its_article_is_fetched(either_library: Library) -> None:
    library = either_library
    page = FetchedPage(b"<p>", "https://paper.example/1")
    _, (one,) = begin(library, links(1))
    for _ in range(2):
        assert library.fetched(one.article, page)
        assert library.failed(one.article, "there is no text")
        assert library.page_of(one.article) is None
        assert library.retry("ada", lambda *_: None, article=one.article) == 1
        library.extracted(one.article, "early", title="", author=None, published=None)  # of a message that was late
    assert library.fetched(one.article, page)
    library.extracted(one.article, "text", title="", author=None, published=None)
    assert library.page_of(one.article) is None
