"""Real HTTP to the server that plays the web: redirects, letters, sizes, times, and addresses that are not public."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import pytest

from read_later.addresses import Forbidden, is_public, public_address
from read_later.fetching import LARGEST_PAGE, Fetcher, PageFailed
from read_later.local_web import FATES, READABLE, Fate, fate_of, rehearsed
from read_later.reading import html_of


def an_address(fate: Fate) -> str:
    return next(url for url in (f"https://gazette.example/{n}" for n in range(5000)) if fate_of(url) == fate)


async def failure(fetcher: Fetcher, url: str) -> PageFailed:
    with pytest.raises(PageFailed) as failed:
        await fetcher.fetch(url)
    return failed.value


async def test_pages_are_fetched_through_redirects_and_in_their_letters(fetcher: Fetcher) -> None:
    for fate in ("well", "slow", "wrong charset"):
        page = await fetcher.fetch(an_address(fate))
        assert page.url == an_address(fate)
        assert page.is_packed == (fate != "wrong charset")
        assert "<p" in html_of(page)
        assert "\ufffd" not in html_of(page)
    page = await fetcher.fetch(an_address("redirects"))
    assert page.url.startswith("http://gazette.example/~well/")


@pytest.mark.parametrize(
    ("fate", "why", "is_passing"),
    [
        ("404", "answers 404 Not Found", False),
        ("500", "answers 500", True),
        ("502 twice", "answers 502", True),
        ("leads inside", "169.254.169.254, which is no address of the public Internet", False),
        ("huge", "larger than 5 MB", False),
        ("pdf", "application/pdf, and only pages are read", False),
    ],
)
async def test_what_is_no_page_says_why_and_whether_it_may_pass(fetcher: Fetcher, fate: Fate, why: str, is_passing: bool) -> None:
    failed = await failure(fetcher, an_address(fate))
    assert why in str(failed)
    assert failed.is_passing is is_passing


async def test_a_page_that_hangs_is_given_up(web: str) -> None:
    fetcher = Fetcher(seconds=0.2, ask=rehearsed, web=web)
    failed = await failure(fetcher, an_address("hangs"))
    assert failed.is_passing
    assert "did not come within 0.2 seconds" in str(failed)
    await fetcher.close()


def test_every_fate_is_tried_or_readable() -> None:
    assert {fate for _, fate in FATES} == READABLE - {"well"} | {"404", "500", "leads inside", "huge", "hangs", "pdf"}


Ask = Callable[[str, int], Awaitable[Sequence[str]]]


@pytest.fixture
async def direct() -> AsyncIterator[Callable[..., Fetcher]]:
    """Fetchers that connect to the address that they are told for a name."""
    made = list[Fetcher]()

    def make(ask: Ask, seconds: float = 30.0) -> Fetcher:
        made.append(Fetcher(seconds=seconds, ask=ask))
        return made[-1]

    yield make
    for one in made:
        await one.close()


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.8.8.8", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "224.0.0.1",
        "255.255.255.255", "192.0.2.1", "198.18.0.1", "240.0.0.1", "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "ff02::1",
        "2001:db8::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "no address",
    ],
)  # fmt: skip
def test_addresses_of_our_own_networks_are_not_public_however_they_are_written(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "address", ["93.184.215.14", "8.8.8.8", "2606:2800:21f:cb07:6820:80da:af6b:8b2c", "::ffff:8.8.8.8", "64:ff9b::808:808"]
)
def test_addresses_of_the_internet_are_public(address: str) -> None:
    assert is_public(address)


async def test_a_name_with_one_inner_address_among_others_is_refused() -> None:
    async def both(host: str, port: int) -> list[str]:
        return ["93.184.215.14", "127.0.0.1"]

    with pytest.raises(Forbidden, match=r"sly\.example leads to 127\.0\.0\.1"):
        await public_address("sly.example", 80, both)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1/", "http://localhost:8000/", "http://[::1]/", "http://2130706433/", "http://0x7f.1/", "http://0177.0.0.1/"]
)
async def test_links_to_this_machine_are_refused_by_the_real_resolver(url: str, direct: Callable[..., Fetcher]) -> None:
    from read_later.addresses import resolve

    failed = await failure(direct(resolve), url)
    assert any(why in str(failed) for why in ("no address of the public Internet", "is not found", "cannot be used"))


async def test_a_name_that_changes_its_address_after_the_look_is_not_followed(
    direct: Callable[..., Fetcher], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name server's second answer would be this machine: there is no second question."""
    asked = list[str]()

    async def rebinding(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["8.8.8.8"] if len(asked) == 1 else ["127.0.0.1"]

    connected = list[str]()

    async def inner(self: object, request: object) -> object:
        connected.append(f"{request.url.host} for {request.headers['host']} as {request.extensions['sni_hostname']}")  # type: ignore[attr-defined]
        import httpx2

        return httpx2.Response(302, headers={"Location": "/next"})

    import httpx2

    monkeypatch.setattr(httpx2.AsyncHTTPTransport, "handle_async_request", inner)
    failed = await failure(direct(rebinding), "https://rebind.example/start")
    assert "127.0.0.1, which is no address" in str(failed)
    assert connected == ["8.8.8.8 for rebind.example as rebind.example"]
    assert asked == ["rebind.example", "rebind.example"]


@asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[str]:
    """A server that answers every request with these bytes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def packed(body: bytes, *headers: str) -> bytes:
    lines = ["HTTP/1.1 200 OK", "Content-Type: text/html", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (packed(b"x" * (LARGEST_PAGE + 1)), "larger than 5 MB"),
        (packed(b"x", "Content-Encoding: br"), "packs it as br"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 999999999999\r\n\r\n", "larger than 5 MB"),
        (b"HTTP/1.1 301 Moved\r\nLocation: file:///etc/passwd\r\n\r\n", "no web page"),
        (b"HTTP/1.1 301 Moved\r\nLocation: /\r\nContent-Length: 0\r\n\r\n", "more than 5 times"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", "answers 204"),
        (b"HTTP/1.1 429 Slow\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n", "answers 429"),
        (b"SSH-2.0-OpenSSH\r\n", "cannot be reached"),
        (b"", "cannot be reached"),
    ],
)
async def test_answers_of_hostile_servers_end_with_a_sentence(answer: bytes, why: str) -> None:
    async with answering(answer) as url:
        fetcher = Fetcher(ask=rehearsed, web=url)
        failed = await failure(fetcher, "https://paper.example/")
        await fetcher.close()
    assert why in str(failed)
    assert failed.after == (7.0 if "429" in why else None)


async def test_a_charset_that_no_database_could_keep_is_none() -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset*=us-ascii''a%00b\r\nContent-Length: 3\r\n\r\n<p>"
    async with answering(answer) as url:
        fetcher = Fetcher(ask=rehearsed, web=url)
        page = await fetcher.fetch("https://paper.example/")
        await fetcher.close()
    assert (page.body, page.charset) == (b"<p>", None)
