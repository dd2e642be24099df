"""Capabilities: the class keywords of messages (row D6)."""

import types
from typing import Any, Self

import pytest

from chappe import Command, Event, Exchange, Rate, Retry, Unique
from chappe.errors import InvalidCapability
from chappe.messages.capabilities import KNOWN, complete, wire_name


@pytest.mark.parametrize(
    ("class_name", "name"),
    [
        ("SyncProperty", "sync.property"),
        ("Sync", "sync"),
        ("HTTPRequest", "http.request"),
        ("PushToHTTP", "push.to.http"),
        ("ImportV2", "import.v2"),
        ("BidRaised", "bid.raised"),
        ("A", "a"),
        ("AB", "ab"),
        ("Sync2Go", "sync2.go"),
        ("_Hidden", "hidden"),
        ("Sync_Property", "sync.property"),
    ],
)
def test_a_class_name_becomes_words_joined_by_dots(class_name: str, name: str) -> None:
    assert wire_name(class_name) == name


@pytest.mark.parametrize(
    ("wrong", "right"), [("retries", "retry"), ("queu", "queue"), ("time_out", "timeout"), ("prio", "priority"), ("uniq", "unique")]
)
def test_a_misspelt_keyword_is_answered_with_the_one_that_was_meant(wrong: str, right: str) -> None:
    keywords: dict[str, Any] = {wrong: 1}
    with pytest.raises(InvalidCapability, match=f'Misspelt: unknown capability "{wrong}", did you mean "{right}"\\?'):
        make: Any = type(Command)
        make("Misspelt", (Command,), {}, **keywords)


def test_a_keyword_like_nothing_else_is_answered_with_all_there_are() -> None:
    with pytest.raises(InvalidCapability, match="known are: ") as caught:
        complete("Odd", {"xyzzy": 1}, merges=False)
    for keyword in KNOWN:
        assert keyword in str(caught.value)


@pytest.mark.parametrize(
    ("keywords", "fault"),
    [
        ({"timeout": 0}, "timeout: Expected `float` > 0"),
        ({"kill_after": -1}, "kill_after: Expected `float` > 0"),
        ({"process": "yes"}, "process: Expected"),
        ({"ttl": 0.0}, "ttl: Expected `float` > 0"),
        ({"delay": -1}, "delay: Expected `float` >= 0"),
        ({"routing_key": "a"}, "routing_key needs an exchange"),
        ({"exchange": "prices"}, "exchange needs a routing_key"),
        ({"name": "Not Lower"}, "must be lower-case words"),
        ({"name": "a..b"}, "must be lower-case words"),
        ({"name": ""}, "must be lower-case words"),
    ],
)
def test_values_that_make_no_sense_are_refused_with_the_reason(keywords: dict[str, Any], fault: str) -> None:
    with pytest.raises(InvalidCapability, match="Wrong: ") as caught:
        complete("Wrong", keywords, merges=False)
    assert fault in str(caught.value)


def test_a_merge_without_a_key_is_refused() -> None:
    with pytest.raises(InvalidCapability, match="merge method but no key"):

        class Merging(Command, queue="q"):  # pyright: ignore[reportUnusedClass]
            number: int

            def merge(self, newer: Self) -> Self:
                return newer


def test_short_forms_mean_the_long_ones() -> None:
    short = complete("M", {"queue": "q", "retry": 3, "rate": "10/s", "unique": "{a}", "exchange": "e"}, merges=False)
    assert short.retry == Retry(3)
    assert short.rate == Rate("10/s")
    assert short.unique == Unique("{a}")
    assert short.exchange == Exchange("e")


@pytest.mark.parametrize(
    ("limit", "seconds"),
    [
        ("10/s", 0.1),
        ("1/s", 1.0),
        ("100/min", 0.6),
        ("5/10s", 2.0),
        ("60/hour", 60.0),
        ("1/d", 86400.0),
        (" 3 / 1 h ", 1200.0),
        ("2/second", 0.5),
    ],
)
def test_a_rate_is_one_start_in_so_many_seconds(limit: str, seconds: float) -> None:
    assert Rate(limit).interval == pytest.approx(seconds)


@pytest.mark.parametrize("limit", ["", "10", "10/", "/s", "0/s", "-1/s", "1.5/s", "10/fortnight", "ten/s", "10 per s", "10/S"])
def test_a_rate_that_cannot_be_read_is_refused_with_an_example(limit: str) -> None:
    with pytest.raises(InvalidCapability, match='write it like "10/s"'):
        Rate(limit)


@pytest.mark.parametrize("wrong", [{"attempts": 0}, {"delay": -1.0}, {"factor": 0.5}, {"most": -1.0}, {"jitter": 1.1}, {"jitter": -0.1}])
def test_a_retry_that_cannot_work_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidCapability):
        Retry(**wrong)


def test_a_burst_of_none_is_refused() -> None:
    with pytest.raises(InvalidCapability, match=r"Rate\(burst=0\): Expected `int` >= 1"):
        Rate("1/s", burst=0)


def test_capabilities_are_inherited_and_overridden_but_names_are_not() -> None:
    class Base(Command, queue="slow", priority=3, name="base.of.all", aliases=("older",)):
        pass

    class Derived(Base, priority=5):
        pass

    assert Derived.__spec__.queue == "slow"
    assert Derived.__spec__.priority == 5
    assert Derived.__spec__.name == "derived"
    assert Derived.__spec__.aliases == ()
    assert Base.__spec__.priority == 3


def test_commands_and_events_without_keywords_have_the_defaults() -> None:
    class Happened(Event):
        pass

    spec = Happened.__spec__
    assert (spec.name, spec.queue, spec.retry, spec.priority, spec.results) == ("happened", None, Retry(), 0, False)


def test_a_name_of_its_own_replaces_the_one_made_from_the_class() -> None:
    class Renamed(Command, queue="q", name="sync.hotel", aliases=("sync.property",)):
        pass

    assert (Renamed.__spec__.name, Renamed.__spec__.aliases) == ("sync.hotel", ("sync.property",))


def test_a_command_without_a_queue_waits_in_the_default_one_and_is_not_inline() -> None:
    class Plain(Command):
        pass

    class Told(Event):
        pass

    assert (Plain.__spec__.queue, Plain.__spec__.inline) == ("default", False)
    assert (Told.__spec__.queue, Told.__spec__.inline) == (None, False)


@pytest.mark.parametrize(
    "keywords",
    [
        {"queue": "q"}, {"exchange": "x", "routing_key": "r"}, {"key": "{n}"}, {"unique": "{n}"}, {"priority": 1}, {"delay": 1.0},
        {"retry": 3}, {"kill_after": 5.0}, {"process": True}, {"ttl": 5.0}, {"results": True},
    ],
)  # fmt: skip
def test_what_needs_a_queue_is_refused_beside_inline(keywords: dict[str, Any]) -> None:
    with pytest.raises(
        InvalidCapability, match=rf"Now: inline=True is handled where it is sent.* so {next(iter(keywords))}= means nothing"
    ):
        types.new_class("Now", (Command,), {"inline": True, **keywords}, lambda body: body.update(__annotations__={"n": int}))


def test_a_rate_and_a_timeout_may_stand_beside_inline() -> None:
    class Now(Command, inline=True, rate="10/s", timeout=5.0):
        pass

    assert Now.__spec__.inline
    assert Now.__spec__.queue is None


def test_inline_is_inherited_and_can_be_taken_back() -> None:
    class Now(Command, inline=True):
        pass

    class NowToo(Now):
        pass

    class Later(Now, inline=False, queue="later"):
        pass

    assert NowToo.__spec__.inline
    assert (Later.__spec__.inline, Later.__spec__.queue) == (False, "later")


def test_an_event_cannot_be_inline() -> None:
    with pytest.raises(InvalidCapability, match="inline=True is for commands"):
        types.new_class("Told", (Event,), {"inline": True})
