"""Pages as their servers sent them: packed or not, in many letters, and hostile ones."""

import gzip

import pytest

from read_later.fetching import LARGEST_PAGE, FetchedPage
from read_later.reading import Unreadable, html_of


@pytest.mark.parametrize(
    ("body", "declared"),
    [
        ("Été à Zürich".encode(), None),
        ("Été à Zürich".encode("cp1252"), "iso-8859-1"),
        ("Été à Zürich".encode("utf-8-sig"), "iso-8859-1"),
        ("Été à Zürich".encode("utf-16"), None),
        ("Été à Zürich".encode(), "no-such-charset"),
        ("Été à Zürich".encode(), "undefined"),
        ("Été à Zürich".encode(), "idna"),
        (b'<meta charset="windows-1252">' + "Été à Zürich".encode("cp1252"), None),
        (b'<meta http-equiv="Content-Type" content="text/html; charset=windows-1252">' + "Été à Zürich".encode("cp1252"), "utf-8"),
    ],
)
def test_pages_are_read_in_the_letters_that_they_are_written_in(body: bytes, declared: str | None) -> None:
    assert html_of(FetchedPage(body, "", charset=declared)).endswith("Été à Zürich")
    assert html_of(FetchedPage(gzip.compress(body), "", is_packed=True, charset=declared)).endswith("Été à Zürich")


@pytest.mark.parametrize(
    ("body", "why"), [(gzip.compress(b"x" * 50 * LARGEST_PAGE), "larger than 5 MB"), (b"not packed", "cannot be read")]
)
def test_pages_that_cannot_be_unpacked_say_why(body: bytes, why: str) -> None:
    with pytest.raises(Unreadable, match=why):
        html_of(FetchedPage(body, "", is_packed=True))


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    ("body", "declared"),
    [
        (b"a" * 2_000_000 + b"-" + b"b" * 2_000_000, "punycode"),
        (b"+2AA-", "utf-7"),
        (b"\\ud800", "unicode_escape"),
    ],
)
def test_pages_that_would_take_minutes_or_be_no_text_are_read_as_browsers_read_them(body: bytes, declared: str) -> None:
    assert html_of(FetchedPage(body, "", charset=declared)) == body.decode("ascii")
