"""What travels through read later: an article to fetch, and one whose page is here and is to be read."""

from __future__ import annotations

from typing import Final, Literal

from chappe import Command, Process, Retry

Source = Literal["pocket", "instapaper", "readability", "pinboard", "firefox", "chrome", "netscape", "wallabag"]

ATTEMPTS: Final = 4


class FetchArticle(Command, queue="import.{source}", retry=Retry(ATTEMPTS, delay=1.0, factor=3.0)):
    """Fetch the page of an article that waits; the links of each source wait in a queue of their own."""

    source: Source
    article: int
    retries: int = 0  # how often its user had it fetched again


class ExtractArticle(Command, queue="extract", retry=Retry(2, delay=2.0), process=Process(memory=1024), kill_after=120.0):
    """Keep what the page of an article says, without its menus and advertisements."""

    article: int
    retries: int = 0


class EndLostArticles(Command, queue="tidy"):
    """End the articles whose message became a dead letter, so that no import waits for ever."""
