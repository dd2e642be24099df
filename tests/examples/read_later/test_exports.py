"""The real exports, a small sample of our own for each format, and what is refused."""

import datetime as dt
import json
from pathlib import Path

import pytest

from read_later.exports import LARGEST, Link, Refused, normalized, read_export

SEPTEMBER = dt.datetime(2016, 9, 8, 9, 55, 58, tzinfo=dt.UTC)

REAL = {
    "chrome-bookmarks": ("chrome", 1),
    "firefox-bookmarks.json": ("firefox", 2),
    "instapaper-export.csv": ("instapaper", 4),
    "pinboard_export": ("pinboard", 3),
    "pocket.csv": ("pocket", 7),
    "readability-read.json": ("readability", 2),
    "readability.json": ("readability", 3),
    "ril_export.html": ("pocket", 2),
    "wallabag-v2-read.json": ("wallabag", 2),
}


@pytest.mark.parametrize("name", REAL)
def test_w3_each_real_export_is_known_by_what_it_says_and_all_its_links_are_read(name: str, real_exports: Path) -> None:
    export = read_export((real_exports / name).read_bytes())
    assert (export.source, len(export.links)) == REAL[name]
    assert (export.skipped, export.repeated) == (0, 0)
    assert all(link.title and link.url.startswith("http") for link in export.links)
    assert all(link.added for link in export.links) == (export.source != "instapaper")  # its old files have no time


def test_tags_times_and_states_of_the_real_exports_are_kept(real_exports: Path) -> None:
    def links(name: str) -> list[Link]:
        return read_export((real_exports / name).read_bytes()).links

    assert [link.tags for link in links("firefox-bookmarks.json")] == [("test", "tag"), ()]
    assert links("pinboard_export")[1].tags == ("varnish", "PHP")
    assert [link.archived for link in links("pocket.csv")] == [False, False, False, True, False, True, False]
    assert [(link.archived, link.starred, link.tags) for link in links("instapaper-export.csv")] == [
        (False, False, ()), (True, False, ()), (False, True, ()), (False, False, ("test_tag",)),
    ]  # fmt: skip
    assert [link.starred for link in links("readability.json")] == [False, True, False]
    assert [link.archived for link in links("wallabag-v2-read.json")] == [True, False]
    assert {link.added for link in links("wallabag-v2-read.json")} == {SEPTEMBER}
    assert links("chrome-bookmarks")[0].added == dt.datetime(2016, 9, 20, 13, 15, 29, 335823, tzinfo=dt.UTC)
    assert links("ril_export.html")[0].tags == ("ifttt", "new_entry_simple")


SAMPLES = {
    "pocket": "title,url,time_added,tags,status\nA title,https://a.example/1,1473328558,x|y z,archive\n",
    "pocket ": """<!DOCTYPE html><title>Pocket Export</title><h1>Unread</h1><ul></ul><h1>Read Archive</h1>
        <ul><li><a href="https://a.example/1" time_added="1473328558" tags="x,y z">A title</a></ul>""",
    "instapaper": 'URL,Title,Selection,Folder,Timestamp,Tags\nhttps://a.example/1,A title,,Archive,1473328558,"[""x"",""y z""]"\n',
    "netscape": """<!DOCTYPE NETSCAPE-Bookmark-file-1>
        <!-- This is an automatically generated file. Do Not Edit! --><TITLE>Shaarli export</TITLE><H1>Shaarli</H1>
        <DL><p><DT><A HREF="https://a.example/1" ADD_DATE="1473328558" PRIVATE="1" TOREAD="0" TAGS="x,y z">A title</A><DD>words</DL>""",
    "readability": json.dumps({"bookmarks": [
        {"article__url": "https://a.example/1", "article__title": "A title", "date_added": "2016-09-08T11:55:58+0200", "archive": True},
    ]}),
    "pinboard": json.dumps([
        {"href": "https://a.example/1", "description": "A title", "time": "2016-09-08T09:55:58Z", "toread": "no", "tags": "x y"},
    ]),
    "wallabag": json.dumps([
        {"url": "https://a.example/1", "title": "A title", "created_at": "2016-09-08T11:55:58+0200", "is_archived": 1, "tags": ["x", "y z"]},
    ]),
    "firefox": json.dumps({"root": "placesRoot", "children": [{"children": [
        {"type": "text/x-moz-place", "uri": "https://a.example/1", "title": "A title", "dateAdded": 1473328558000000, "tags": "x,y z"},
        {"type": "text/x-moz-place", "uri": "place:sort=8", "title": "Most visited"},
    ]}]}),
    "chrome": json.dumps({"roots": {"other": {"children": [
        {"type": "url", "url": "https://a.example/1", "name": "A title", "date_added": "13117802158000000"},
    ]}}}),
}  # fmt: skip


@pytest.mark.parametrize("name", SAMPLES)
def test_w3_our_sample_of_each_format_gives_its_link_with_title_time_tags_and_state(name: str) -> None:
    export = read_export(SAMPLES[name].encode())
    (link,) = export.links
    assert export.source == name.strip()
    assert (link.url, link.title, link.added) == ("https://a.example/1", "A title", SEPTEMBER)
    assert link.tags[:1] == (() if name in ("chrome", "readability") else ("x",))
    assert link.archived == (name not in ("chrome", "firefox"))
    assert export.skipped == (name == "firefox")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "empty"),
        (b" \n\t\n", "empty"),
        (b"\xef\xbb\xbf", "no export"),
        (b"PK\x03\x04\x00\x00\x00", "archive"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "no text"),
        (b"name,email\nAda,ada@example.org\n", "no export that is known"),
        (b"<html><body><a href='https://a.example'>a page</a>", "no export that is known"),
        (b"[]", "no export that is known"),
        (b"{}", "no export that is known"),
        (b"[" * 100_000, "no export that is known"),
        (b"null", "no export that is known"),
        (b"[1, 2, 3]", "no export that is known"),
        (b"title,url,time_added,tags,status\n", "no link to a web page"),
        (b'{"bookmarks": []}', "no link to a web page"),
        (b'{"bookmarks": 7}', "no link to a web page"),
        (b'[{"href": 7}]', "no link to a web page"),
        (b'[{"href": "javascript:alert(1)"}]', "no link to a web page"),
        (b"x" * (LARGEST + 1), "larger than"),
    ],
)
def test_empty_and_foreign_files_are_refused_with_a_sentence(content: bytes, sentence: str) -> None:
    with pytest.raises(Refused, match=sentence) as refused:
        read_export(content)
    assert str(refused.value)[0].isupper()
    assert str(refused.value).endswith(".")


def test_a_link_that_stands_twice_is_one_with_the_tags_and_states_of_both() -> None:
    rows = "One,https://a.example/x,1,a|b,unread\nTwo,HTTPS://A.example:443/x,2,b|c,archive\nThree,ftp://a.example/,3,,unread\n"
    export = read_export(f"title,url,time_added,tags,status\n{rows}".encode())
    assert (export.repeated, export.skipped) == (1, 1)
    (link,) = export.links
    assert (link.title, link.tags, link.archived) == ("One", ("a", "b", "c"), True)


def test_a_row_that_cannot_be_read_costs_no_other() -> None:
    rows = 'Good,https://a.example/1,1,,unread\n"Bad\x00,https://a.example/2\nGood,https://a.example/3,x,,unread\n'
    export = read_export(f"title,url,time_added,tags,status\n{rows}".replace("\x00", "").encode())
    assert export.links[0].url == "https://a.example/1"
    short = read_export(b"title,url,time_added,tags,status\nno more\n,,,,\nGood,https://a.example/3,never,,unread\n")
    assert [(link.url, link.added) for link in short.links] == [("https://a.example/3", None)]


def test_files_of_windows_are_read() -> None:
    text = "title,url,time_added,tags,status\nÉté,https://a.example/1,1,,unread\n"
    assert {read_export(text.encode(code)).links[0].title for code in ("utf-8-sig", "utf-16", "cp1252")} == {"Été"}


@pytest.mark.parametrize(
    ("url", "same"),
    [
        ("HTTP://Example.ORG", "http://example.org/"),
        ("https://example.org:443/a?b=C#d", "https://example.org/a?b=C#d"),
        ("http://user:secret@example.org:8080/", "http://example.org:8080/"),
        (" https://example.org/a b\n", "https://example.org/a%20b"),
        ("http://[2001:DB8::1]:80/x", "http://[2001:db8::1]/x"),
        ("https://example.org./x", "https://example.org/x"),
        ("javascript:alert(1)", None),
        ("file:///etc/passwd", None),
        ("https:///nowhere", None),
        ("http://[broken/", None),
        ("http://example.org:99999/", None),
        ("http://example.org/\x00", None),
        ("https://example.org/" + "x" * 2000, None),
        ("", None),
    ],
)
def test_addresses_are_compared_in_one_form(url: str, same: str | None) -> None:
    assert normalized(url) == same
