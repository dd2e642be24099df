"""A poll over HTTP: whatever a server does, it ends in a sentence and nothing is raised."""

import gzip
from collections.abc import Callable

import httpx2
import pytest

from chappe.triggers import poll as module
from chappe.triggers.feed import Feed, Poll
from chappe.triggers.poll import poll

RSS = b"<rss version='2.0'><channel><item><title>a</title><guid>1</guid></item></channel></rss>"
Server = Callable[[httpx2.Request], httpx2.Response]


async def ask(server: Server, feed: Feed | None = None) -> Poll:
    async with httpx2.AsyncClient(transport=httpx2.MockTransport(server)) as http:
        return await poll(feed or Feed("http://a.test/feed"), http, now=lambda: 1e9)


async def test_the_second_poll_is_conditional_and_finds_nothing() -> None:
    def server(request: httpx2.Request) -> httpx2.Response:
        same = request.headers.get("if-none-match") == '"1"'
        return httpx2.Response(304) if same else httpx2.Response(200, content=RSS, headers={"ETag": '"1"'})

    first = await ask(server)
    second = await ask(server, first.feed)
    assert (len(first.items), second.items, second.feed.etag) == (1, (), '"1"')


@pytest.mark.parametrize(
    ("statuses", "remembered"),
    [([301], True), ([308, 301], True), ([302], False), ([303], False), ([307], False), ([301, 302], False), ([302, 301], False)],
)
async def test_redirects_are_followed_and_remembered_when_all_are_for_good(statuses: list[int], remembered: bool) -> None:
    def server(request: httpx2.Request) -> httpx2.Response:
        step = int(request.url.path.removeprefix("/feed") or 0)
        if step < len(statuses):
            return httpx2.Response(statuses[step], headers={"location": f"/feed{step + 1}"})
        return httpx2.Response(200, content=RSS)

    found = await ask(server)
    assert len(found.items) == 1
    assert found.feed.url == (f"http://a.test/feed{len(statuses)}" if remembered else "http://a.test/feed")


@pytest.mark.parametrize(
    ("location", "sentence"),
    [("/feed", "redirects us more than 5 times"), ("file:///etc/passwd", "no web address"), ("gopher://x", "no web")],
)
async def test_redirects_in_a_circle_or_to_elsewhere_end_in_a_sentence(location: str, sentence: str) -> None:
    found = await ask(lambda _: httpx2.Response(302, headers={"location": location}))
    assert (found.items, found.feed.failures) == ((), 1)
    assert sentence in found.feed.trouble


@pytest.mark.parametrize("error", [httpx2.ConnectError("refused"), httpx2.ReadTimeout(""), httpx2.RemoteProtocolError("garbage")])
async def test_a_server_that_does_not_answer_is_said(error: Exception) -> None:
    def server(_: httpx2.Request) -> httpx2.Response:
        raise error

    found = await ask(server)
    assert found.feed.trouble.startswith("The server cannot be reached: ")
    assert found.feed.failures == 1


@pytest.mark.parametrize("url", ["no url", "http://", "http://[::1", "", "ftp://a.test/", "http://a.test:99999/"])
async def test_an_address_that_is_none_is_said(url: str) -> None:
    async with httpx2.AsyncClient(trust_env=False) as http:
        found = await poll(Feed(url), http)
    assert "cannot be reached" in found.feed.trouble


async def test_a_body_is_bounded_unpacked_too_and_a_wrong_packing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_BYTES", 2 * 1024 * 1024)
    packed = gzip.compress(b" " * 3 * 1024 * 1024)
    large = await ask(lambda _: httpx2.Response(200, content=packed, headers={"content-encoding": "gzip"}))
    assert large.feed.trouble == "The feed is larger than 2 MB; it is not read."
    wrong = await ask(lambda _: httpx2.Response(200, content=b"no gzip", headers={"content-encoding": "gzip"}))
    assert "cannot be reached" in wrong.feed.trouble
