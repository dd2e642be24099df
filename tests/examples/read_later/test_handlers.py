"""Fetching and extracting as workers do it, in memory and with its own clock, over real HTTP to the local web."""

import datetime as dt
from collections.abc import Iterator

import pytest

from chappe.testing import Trial, testing
from read_later.app import app
from read_later.exports import Export, Link
from read_later.fetching import FetchedPage, Fetcher, PageFailed
from read_later.library import Library
from read_later.local_web import Fate, fate_of, rehearsed
from read_later.messages import ATTEMPTS, EndLostArticles, ExtractArticle, FetchArticle
from read_later.tables import Article

SAVED = dt.datetime(2020, 5, 1, tzinfo=dt.UTC)


@pytest.fixture
def trial(library: Library, web: str) -> Iterator[Trial]:
    with testing(app) as t:
        t.provide(Library, library)
        t.provide(Fetcher, Fetcher(seconds=30.0, ask=rehearsed, web=web))
        yield t


def addresses(fate: Fate, count: int = 1) -> list[str]:
    found = (url for url in (f"https://paper.example/{n}" for n in range(9000)) if fate_of(url) == fate)
    return [next(found) for _ in range(count)]


def begin(t: Trial, library: Library, *urls: str, source: str = "pocket") -> int:
    links = [Link(url, f"Title of {url}", SAVED, ("a", "b c"), archived=True) for url in urls]
    sent = list[FetchArticle]()
    number = library.begin("ada", "export.csv", Export(source, links, 0, 0), lambda _, commands: sent.extend(commands))  # type: ignore[arg-type]
    t.app.send(sent)
    return number


def articles(library: Library, number: int) -> dict[str, Article]:
    return {a.url: a for a in library.articles("ada", import_id=number)[0]}


def test_w3_each_source_has_its_own_queue(trial: Trial, library: Library) -> None:
    begin(trial, library, "https://paper.example/a", source="pocket")
    begin(trial, library, "https://paper.example/b", "https://paper.example/c", source="firefox")
    assert trial.depth("import.pocket") == (1, 0)
    assert trial.depth("import.firefox") == (2, 0)


@pytest.mark.parametrize("fate", ["well", "slow", "redirects", "wrong charset", "502 twice"])
def test_an_article_that_can_be_read_keeps_its_text_and_what_the_export_said(trial: Trial, library: Library, fate: Fate) -> None:
    (url,) = addresses(fate)
    article = articles(library, begin(trial, library, url))[url]
    assert article.state == "waiting"
    trial.drain(to_the_end=True)
    found = library.article("ada", article.id)
    assert found is not None
    assert (found.state, found.title, found.tags, found.archived, found.added_at) == ("done", f"Title of {url}", ["a", "b c"], True, SAVED)
    assert found.text
    assert found.words > 0


@pytest.mark.parametrize("fate", ["404", "500", "leads inside", "huge", "hangs", "pdf"])
def test_w19_an_article_whose_page_fails_keeps_title_and_link_and_says_why(trial: Trial, library: Library, web: str, fate: Fate) -> None:
    (url,) = addresses(fate)
    if fate == "hangs":
        trial.provide(Fetcher, Fetcher(seconds=0.2, ask=rehearsed, web=web))
    number = begin(trial, library, url)
    trial.drain(to_the_end=True, timeout=30.0)
    article = articles(library, number)[url]
    assert (article.state, article.title, article.tags) == ("failed", f"Title of {url}", ["a", "b c"])
    assert article.error
    assert trial.dead == []
    assert library.progress(number).is_over


def test_w19_failures_do_not_hold_up_the_others_and_can_be_retried(trial: Trial, library: Library) -> None:
    urls = [*addresses("404", 3), *addresses("well", 5)]
    number = begin(trial, library, *urls)
    trial.drain(to_the_end=True)
    progress = library.progress(number)
    assert (progress.total, progress.done, progress.failed, progress.is_over) == (8, 5, 3, True)

    again = list[FetchArticle]()
    assert library.retry("ada", lambda _, commands: again.extend(commands), import_id=number) == 3
    assert not library.progress(number).is_over
    assert library.retry("ada", lambda _, commands: again.extend(commands), import_id=number) == 0
    trial.app.send(again)
    trial.drain(to_the_end=True)
    assert library.progress(number) == progress


def test_a_message_that_comes_twice_changes_nothing(trial: Trial, library: Library) -> None:
    (url,) = addresses("well")
    number = begin(trial, library, url)
    trial.drain()
    before = articles(library, number)[url]
    for message in (FetchArticle(source="pocket", article=before.id), ExtractArticle(article=before.id)):
        trial.send(message)
        trial.send(message)
        trial.drain()
    after = articles(library, number)[url]
    assert (after.state, after.ended_at, after.words) == ("done", before.ended_at, before.words)


class Breaking:
    """A fetcher with a fault of ours in it."""

    async def fetch(self, url: str) -> FetchedPage:
        raise ZeroDivisionError


def test_the_last_article_ends_also_when_its_message_is_a_dead_letter(trial: Trial, library: Library) -> None:
    trial.provide(Fetcher, Breaking())  # type: ignore[arg-type]
    number = begin(trial, library, "https://paper.example/a")
    trial.drain(to_the_end=True, slots=0)
    (letter,) = trial.dead
    assert letter.attempts == ATTEMPTS
    assert not library.progress(number).is_over
    assert trial.ask(EndLostArticles()) == 1
    assert trial.ask(EndLostArticles()) == 0
    assert library.progress(number).is_over
    assert articles(library, number)["https://paper.example/a"].error == "it could not be worked on (attempts spent)"


def test_an_article_that_was_retried_is_not_ended_by_the_dead_letter_from_before(trial: Trial, library: Library) -> None:
    trial.provide(Fetcher, Breaking())  # type: ignore[arg-type]
    number = begin(trial, library, "https://paper.example/a")
    trial.drain(to_the_end=True, slots=0)
    assert trial.ask(EndLostArticles()) == 1
    again = list[FetchArticle]()
    assert library.retry("ada", lambda _, commands: again.extend(commands), import_id=number) == 1
    assert trial.ask(EndLostArticles()) == 0
    assert not library.progress(number).is_over
    trial.app.send(again)
    trial.drain(to_the_end=True, slots=0)
    assert trial.ask(EndLostArticles()) == 1
    assert library.progress(number).is_over


class Busy:
    """A server that says when to come back."""

    def __init__(self) -> None:
        self.asked = 0

    async def fetch(self, url: str) -> FetchedPage:
        self.asked += 1
        raise PageFailed("its server answers 429 Too Many Requests", is_passing=True, after=100.0)


def test_a_server_is_asked_again_when_it_says(trial: Trial, library: Library) -> None:
    busy = Busy()
    trial.provide(Fetcher, busy)  # type: ignore[arg-type]
    begin(trial, library, "https://paper.example/a")
    trial.drain()
    trial.advance(99.0)
    trial.drain()
    assert busy.asked == 1
    trial.advance(2.0)
    trial.drain()
    assert busy.asked == 2
