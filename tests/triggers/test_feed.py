"""What is new in a feed: each item once, whatever its server and its author do."""

import sys
import threading
import time
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import feedparser
import msgspec
import pytest
from msgspec.structs import replace

from chappe.triggers.feed import Answer, Feed, Poll, conditions, failed, read

from ..waiting import until

FEEDS = Path("/work/shared/data/feeds")
NOW = 1_460_548_800.0  # 13 April 2016, noon
REAL = sorted(path for path in FEEDS.rglob("*") if path.is_file() and path.suffix != ".opml" and not path.name.endswith("LICENSE"))


def rss(*items: str, head: str = "") -> bytes:
    return f'<?xml version="1.0"?><rss version="2.0"><channel><title>A</title>{head}{"".join(items)}</channel></rss>'.encode()


def item(number: int, date: str = "Wed, 13 Apr 2016 11:00:00 GMT", more: str = "") -> str:
    return (
        f"<item><title>T{number}</title><guid>id-{number}</guid><link>http://a.test/{number}</link><pubDate>{date}</pubDate>{more}</item>"
    )


def answered(body: bytes, status: int = 200, moved_to: str | None = None, **headers: str) -> Answer:
    return Answer(status, {name.replace("_", "-"): value for name, value in headers.items()}, body, moved_to)


def polled(*bodies: bytes, feed: Feed | None = None) -> list[Poll]:
    polls: list[Poll] = []
    feed = feed or Feed("http://a.test/feed")
    for number, body in enumerate(bodies):
        polls.append(read(feed, answered(body), NOW + 60 * number))
        feed = polls[-1].feed
    return polls


def ids(poll: Poll) -> list[str]:
    return [one.id for one in poll.items]


def test_t6_what_many_users_follow_is_parsed_once_and_each_hears_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    library: Any = feedparser  # it has no types
    parsed = Mock(wraps=library.parse)
    monkeypatch.setattr(library, "parse", parsed)
    body = rss("<item><title>A</title><guid>popular</guid><link>/a</link></item>")
    polls = [read(Feed(f"http://{user}.test/feed"), answered(body), NOW + user) for user in range(60)]
    assert parsed.call_count == 1
    assert [(one.link, one.published) for found in polls for one in found.items] == [(f"http://{u}.test/a", NOW + u) for u in range(60)]


def test_t6_what_is_read_by_several_threads_at_once_is_parsed_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    library: Any = feedparser
    parse, calls, body = library.parse, list[object](), rss(item(1), "<item><title>B</title><guid>at-once</guid></item>")
    polls: list[Poll] = []
    other = threading.Thread(target=lambda: polls.append(read(Feed("http://b.test/"), answered(body), NOW)))

    def is_in_the_way() -> bool:
        frame = sys._current_frames().get(other.ident or 0)
        return len(calls) > 1 or (frame is not None and frame.f_code.co_name == "_read_once")

    def slow(*arguments: Any, **options: Any) -> Any:
        calls.append(arguments)
        if threading.current_thread() is not other:
            other.start()
            until(is_in_the_way, "the other thread to wait, or to parse")
        return parse(*arguments, **options)

    monkeypatch.setattr(library, "parse", slow)
    polls.append(read(Feed("http://a.test/"), answered(body), NOW))
    other.join()
    assert len(calls) == 1
    assert [sorted(ids(poll)) for poll in polls] == [["at-once", "id-1"]] * 2


@pytest.mark.skipif(not REAL, reason="the real feeds are in shared/data, which is absent")
def test_t23_each_real_feed_polled_twice_publishes_nothing_the_second_time_and_the_broken_say_why() -> None:
    broken: dict[str, str] = {}
    found = 0
    for path in REAL:
        (first,) = polled(path.read_bytes())
        (second,) = polled(path.read_bytes(), feed=replace(first.feed, digest=""))  # as if it had changed: it is read again
        assert second.items == (), path
        found += len(first.items)
        assert bool(first.feed.failures) == bool(second.feed.failures)
        if first.feed.failures:
            broken[path.name] = first.feed.trouble
    assert found > 600
    assert broken.keys() == {"rss_empty_document.xml", "unrecognized.rss"}
    assert all(said.startswith("There is no feed at this address") for said in broken.values())


def test_only_what_was_not_there_before_is_new_and_the_oldest_comes_first() -> None:
    early, late = "Wed, 13 Apr 2016 08:00:00 GMT", "Wed, 13 Apr 2016 10:00:00 GMT"
    first, second = polled(rss(item(2, late), item(1, early)), rss(item(3), item(2, late), item(1, early)))
    assert (ids(first), ids(second)) == (["id-1", "id-2"], ["id-3"])


def test_an_item_that_is_twice_in_one_document_is_one() -> None:
    (poll,) = polled(rss(item(1), item(1), "<item><title>no id</title></item>", "<item><title>no id</title></item>"))
    assert ids(poll) == ["id-1", "no id"]


def test_an_item_that_left_the_document_for_a_while_is_not_new_when_it_comes_back() -> None:
    _, _, third = polled(rss(item(1), item(2)), rss(item(2)), rss(item(2), item(1)))
    assert third.items == ()


@pytest.mark.parametrize("kind", ["<guid>7</guid>", "<link>/7</link>", "<link>http://a.test/7</link>", ""])
def test_an_item_is_the_same_when_its_feed_moves(kind: str) -> None:
    body = rss(f"<item><title>T</title>{kind}</item>")
    first = read(Feed("http://a.test/feed"), answered(body), NOW)
    moved = read(replace(first.feed, digest=""), answered(body, moved_to="https://b.test/other/feed"), NOW + 60)
    assert (len(first.items), moved.items, moved.feed.url) == (1, (), "https://b.test/other/feed")


def test_an_item_whose_text_changes_is_not_new() -> None:
    _, second = polled(rss(item(1)), rss(item(1, more="<description>corrected</description>")))
    assert second.items == ()


@pytest.mark.parametrize(
    ("date", "published"),
    [
        ("Thu, 01 Jan 2099 00:00:00 GMT", NOW),
        ("", NOW),
        ("yesterday, I think", NOW),
        ("Wed, 13 Apr 2016 11:00:00 GMT", NOW - 3600),
        ("Mon, 01 Jan 0001 00:00:00 GMT", None),
        ("31 Dec 99999 00:00:00", None),
    ],
)
def test_an_item_of_the_future_or_of_no_date_is_of_now(date: str, published: float | None) -> None:
    first, second = polled(rss(item(1, date)), rss(item(1, date), head="<generator>x</generator>"))
    assert len(first.items) == 1
    assert first.items[0].published <= NOW
    assert published is None or first.items[0].published == published
    assert second.items == ()


def test_what_is_remembered_is_bounded_and_never_less_than_the_document(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chappe.triggers.feed._REMEMBERED", 100)
    (large,) = polled(rss(*(item(n) for n in range(300))))
    assert len(large.feed.seen) == len(large.items) == 300
    feed = large.feed
    for turn in range(3):
        feed = read(feed, answered(rss(item(1000 + turn))), NOW + 60 + turn).feed
    assert len(feed.seen) == 101
    assert read(feed, answered(rss(item(1002), item(1001), item(1000))), NOW + 90).items == ()


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("&lt;b&gt;A&lt;/b&gt; name &amp;amp; more", "A name & more"),
        ("<![CDATA[One<br>two <script>alert('three')</script>&amp; four]]>", "One two & four"),
        ("<![CDATA[<p>un<em>end</em>ing <style>b{}]]>", "unending"),
        ("<![CDATA[a <!-- quiet --> b <style>c{}</style>d<script>e</style>f</script>g]]>", "a b dg"),
        ("<![CDATA[a</script> b]]>", "a b"),
        ("a &lt; b", "a < b"),
    ],
)
def test_html_is_read_as_what_a_reader_sees_of_it_and_never_a_script(written: str, read: str) -> None:
    entry = f'<entry><id>1</id><title type="html">{written}</title><summary type="html">{written}</summary></entry>'
    (of_rss, of_atom) = polled(rss(f"<item><description>{written}</description><guid>1</guid></item>"),
        f'<feed xmlns="http://www.w3.org/2005/Atom"><title>A</title>{entry}</feed>'.encode().replace(b"<id>1<", b"<id>2<"))  # fmt: skip
    assert [one.summary for one in of_rss.items] == [read]
    assert [(one.title, one.summary) for one in of_atom.items] == [(read, read)]


@pytest.mark.parametrize("part", ["<a ", "<a x='", "<!--", "</", "<a<", "<script>", "&#"])
def test_no_html_takes_more_than_one_look(part: str) -> None:
    """What is looked through again for each tag would take hours here."""
    (poll,) = polled(rss(f"<item><guid>1</guid><description><![CDATA[{part * 200_000}]]></description></item>"))
    assert [one.id for one in poll.items] == ["1"]


def test_what_has_neither_id_nor_link_and_only_a_picture_is_an_item_once() -> None:
    first, second = polled(*[rss("<item><description>&lt;img src='/a.png'&gt;</description></item>", head) for head in ("", " ")])
    assert [one.summary for one in first.items] == [""]
    assert second.items == ()


def test_a_feed_is_written_and_read_by_msgspec() -> None:
    (poll,) = polled(rss(item(1)))
    assert msgspec.json.decode(msgspec.json.encode(poll.feed), type=Feed) == poll.feed


# --- conditional requests


def test_the_second_request_has_the_conditions_that_the_first_answer_gave() -> None:
    first = read(Feed("http://a.test/"), answered(rss(item(1)), etag='W/"x"', last_modified="Wed, 13 Apr 2016 11:00:00 GMT"), NOW)
    assert conditions(first.feed) == {"if-none-match": 'W/"x"', "if-modified-since": "Wed, 13 Apr 2016 11:00:00 GMT"}
    second = read(first.feed, answered(b"", 304), NOW + 60)
    assert second.items == ()
    assert conditions(second.feed) == conditions(first.feed)
    third = read(second.feed, answered(rss(item(2), item(1))), NOW + 120)
    assert (ids(third), conditions(third.feed)) == (["id-2"], {})


def test_what_could_not_be_read_sets_no_condition_so_that_it_is_asked_for_again() -> None:
    good = read(Feed("http://a.test/"), answered(rss(item(1)), etag='"1"'), NOW).feed
    poll = read(good, answered(b"<html>We are sorry</html>", etag='"2"'), NOW + 60)
    assert (poll.items, poll.feed.failures, conditions(poll.feed)) == ((), 1, {"if-none-match": '"1"'})


def test_an_address_that_moved_for_good_is_remembered() -> None:
    poll = read(Feed("http://a.test/"), answered(rss(item(1)), moved_to="https://a.test/feed"), NOW)
    assert poll.feed.url == "https://a.test/feed"
    same = read(poll.feed, answered(rss(item(1)), moved_to="https://b.test/feed"), NOW + 60)
    assert same.feed.url == "https://b.test/feed"


def test_an_address_that_moved_to_something_that_is_no_feed_is_not_remembered() -> None:
    poll = read(Feed("http://a.test/"), answered(b"<html>Buy this domain</html>", moved_to="https://parked.test/"), NOW)
    assert (poll.feed.url, poll.feed.failures) == ("http://a.test/", 1)


# --- trouble


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (answered(b"", 410), "gone for good"),
        (answered(b"", 404), "no feed at this address (404)"),
        (answered(b"", 403), "refuses us (403)"),
        (answered(b"", 500), "answered 500"),
        (answered(b"", 302), "answered 302"),
        (answered(b"", 429, retry_after="120"), "left alone for 120 s"),
        (answered(b"<!DOCTYPE html><html><body>hello"), "a web page"),
        (answered(b""), "something else"),
        (answered(b"\x00\xff\xfe binary"), "something else"),
        (answered(b"/etc/passwd"), "something else"),
        (answered(b"http://127.0.0.1:1/"), "something else"),
    ],
)
def test_a_feed_that_cannot_be_read_has_a_sentence_and_keeps_what_was_known(answer: Answer, sentence: str) -> None:
    known = read(Feed("http://a.test/"), answered(rss(item(1))), NOW).feed
    poll = read(known, answer, NOW + 60)
    assert (poll.items, poll.feed.failures, poll.feed.seen) == ((), 1, known.seen)
    assert sentence in poll.feed.trouble
    assert len(poll.feed.trouble) <= 300
    mended = read(poll.feed, answered(rss(item(2), item(1))), NOW + 120)
    assert (ids(mended), mended.feed.failures, mended.feed.trouble) == (["id-2"], 0, "")


def test_a_feed_that_was_broken_and_comes_back_unchanged_has_no_trouble_any_more() -> None:
    known = read(Feed("http://a.test/"), answered(rss(item(1))), NOW).feed
    broken = read(known, answered(b"", 500), NOW + 60).feed
    for back in (answered(b"", 304), answered(rss(item(1)))):
        assert (read(broken, back, NOW + 120).feed.trouble, read(broken, back, NOW + 120).feed.failures) == ("", 0)


def test_an_ill_formed_feed_is_read_as_far_as_it_goes_and_marked() -> None:
    (poll,) = polled(rss(item(1)).replace(b"<title>T1</title>", b"<title>Fish & chips</title>"))
    assert [one.title for one in poll.items] == ["Fish & chips"]
    assert (poll.feed.failures, poll.feed.trouble[:27]) == (0, "The feed is not well-formed")


@pytest.mark.parametrize(
    "bomb",
    [
        b'<!DOCTYPE rss [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;">]>',
        b'<!DOCTYPE rss [<!ENTITY a "' + b"x" * 5000 + b'">]>',
        b'<!DOCTYPE rss [<!ENTITY a SYSTEM "file:///etc/passwd">]>',
        b'<!DOCTYPE rss [<!ENTITY % a SYSTEM "http://a.test/dtd"> %a;]>',
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_feed_that_is_made_to_explode_or_to_read_files_is_not_read(bomb: bytes, encoding: str) -> None:
    body = (
        b'<?xml version="1.0" encoding="'
        + encoding.encode()
        + b'"?>'
        + bomb
        + b"<rss version='2.0'><channel><item><title>&a;</title></item></channel></rss>"
    )
    (poll,) = polled(body.decode().encode(encoding))
    assert poll.items == ()
    assert "explode" in poll.feed.trouble


def test_an_old_document_type_that_lies_elsewhere_is_no_obstacle_and_is_not_asked_for() -> None:
    declared = b'<!DOCTYPE rss PUBLIC "-//Netscape Communications//DTD RSS 0.91//EN" "http://127.0.0.1:1/rss-0.91.dtd">'
    (poll,) = polled(declared + b"<rss version='0.91'><channel><item><title>a</title><link>http://a.test/1</link></item></channel></rss>")
    assert (len(poll.items), poll.feed.trouble) == (1, "")


def test_a_link_is_a_web_address_or_nothing() -> None:
    links = ("javascript:alert(1)", "data:text/html,x", "/relative", "http://a.test/x")
    entries = [f"<item><guid isPermaLink='false'>{n}</guid><link>{link}</link></item>" for n, link in enumerate(links)]
    (poll,) = polled(rss(*entries))
    assert {one.id: one.link for one in poll.items} == {"0": "", "1": "", "2": "http://a.test/relative", "3": "http://a.test/x"}


# --- when it is asked again


def test_t25_a_busy_feed_is_asked_again_sooner_than_a_quiet_one() -> None:
    busy = read(Feed("http://a.test/"), answered(rss(*(item(n) for n in range(200)))), NOW).feed
    quiet = read(Feed("http://a.test/"), answered(rss(item(1, "Mon, 01 Jan 2007 00:00:00 GMT"))), NOW).feed
    assert busy.next_poll - NOW == pytest.approx(7 * 86400 / 200)
    assert quiet.next_poll - NOW == 86400
    for _ in range(800):
        busy = read(busy, answered(b"", 304), busy.next_poll).feed
    assert busy.next_poll - busy.polled_at > 4 * 3600  # nothing came for days


def test_a_server_that_names_a_time_is_not_asked_before() -> None:
    busy = rss(*(item(n) for n in range(300)))
    for said in ({"retry_after": "7000"}, {"cache_control": "public, max-age=7000"}):
        assert read(Feed("http://a.test/"), answered(busy, **said), NOW).feed.next_poll == NOW + 7000
    assert (
        read(Feed("http://a.test/"), answered(rss(*(item(n) for n in range(300)), head="<ttl>60</ttl>")), NOW).feed.next_poll == NOW + 3600
    )
    assert read(Feed("http://a.test/"), answered(busy, 429, retry_after="Wed, 13 Apr 2016 14:00:00 GMT"), NOW).feed.next_poll == NOW + 7200


def test_a_feed_that_fails_is_asked_less_and_less_often_but_always_again() -> None:
    feed = Feed("http://a.test/")
    pauses: list[float] = []
    for _ in range(30):
        poll = failed(feed, "no answer", NOW)
        pauses.append(poll.feed.next_poll - NOW)
        feed = poll.feed
    assert pauses[0] <= 1200
    assert pauses == sorted(pauses)
    assert pauses[-1] == 86400


def test_a_large_feed_of_others_takes_no_time_when_it_has_not_changed() -> None:
    body = rss(*(item(n) for n in range(300)))
    (first,) = polled(body)
    began = time.thread_time()
    for _ in range(20):
        assert read(first.feed, answered(body), NOW + 60).items == ()
    unchanged = time.thread_time() - began
    began = time.thread_time()
    read(first.feed, answered(body + b"\n"), NOW + 60)
    assert unchanged < 20 * (time.thread_time() - began)  # it is not parsed: much less than parsing each time
