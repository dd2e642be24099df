"""What workers do: fetch, extract, and end what was lost on the way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

import msgspec

from chappe import Context, RetryLater, every
from read_later.application import app
from read_later.extraction import NoText, extract
from read_later.fetching import Fetcher, PageFailed
from read_later.library import Library
from read_later.messages import ATTEMPTS, EndLostArticles, ExtractArticle, FetchArticle
from read_later.reading import Unreadable, html_of


class _Lost(msgspec.Struct):
    article: int
    retries: int = 0


_OURS: Final = frozenset(kind.__spec__.name for kind in (FetchArticle, ExtractArticle))


@app.handles(FetchArticle)
async def fetch_article(command: FetchArticle, library: Library, fetcher: Fetcher, context: Context) -> AsyncIterator[ExtractArticle]:
    """Fetch a page; after the last attempt the article keeps its title and link, and says why it has no text."""
    url = await asyncio.to_thread(library.url_of, command.article)
    if url is not None:
        try:
            page = await fetcher.fetch(url)
        except PageFailed as failure:
            if failure.is_passing and context.attempt < ATTEMPTS:
                raise RetryLater(str(failure), after=failure.after) from None
            await asyncio.to_thread(library.failed, command.article, str(failure))
            return
        await asyncio.to_thread(library.fetched, command.article, page)
    # Also where an attempt before this one was cut off behind the commit.
    yield ExtractArticle(article=command.article, retries=command.retries)


@app.handles(ExtractArticle)
def extract_article(command: ExtractArticle, library: Library) -> None:
    """Keep what a page says."""
    page = library.page_of(command.article)
    if page is None:
        return
    try:
        found = extract(html_of(page), page.url)
    except (Unreadable, NoText) as why:
        library.failed(command.article, str(why))
    else:
        library.extracted(command.article, found.text, title=found.title, author=found.author, published=found.published)


@app.handles(EndLostArticles)
async def end_lost_articles(_: EndLostArticles, library: Library) -> int:
    """Look through the dead letters for articles that nobody works on any more; one that was retried since has a message of its own."""
    store = (await app.connection()).store
    ended = number = 0
    while letters := await store.letters(after=number):
        number = letters[-1].number
        for letter in letters:
            if letter.envelope.type in _OURS:
                lost = msgspec.json.decode(letter.envelope.body, type=_Lost)
                why = f"it could not be worked on ({letter.reason})"
                ended += await asyncio.to_thread(library.failed, lost.article, why, retries=lost.retries)
    return ended


app.schedule(every(30), EndLostArticles(), misfire="skip")
