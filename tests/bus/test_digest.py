"""Digests: several commands in one call, each with its own verdict (rows T2, T19: a backlog is handled together)."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from chappe import App, Command, Context, Reject, Retry, RetryLater
from chappe.errors import DefinitionError
from chappe.testing import testing


class Post(Command, queue="posts", retry=Retry(3, delay=1.0, factor=1.0, jitter=0.0)):
    number: int


class Posted(Command, queue="posted"):
    number: int


class Shop:
    """An application whose posts are handled together."""

    def __init__(self, batch: int = 50, within: float = 5.0, *, poison: int = -1) -> None:
        self.app = App("posts")
        self.calls: list[list[int]] = []
        self.poison = poison
        self.posted: list[int] = []
        self.parents = set[str | None]()
        self.app.handles(Post, batch=batch, within=within)(self.post)
        self.app.handles(Posted)(self.note)

    async def post(self, posts: list[Post], contexts: list[Context]) -> None:
        self.calls.append([post.number for post in posts])
        for post, context in zip(posts, contexts, strict=True):
            if post.number == self.poison:
                raise ValueError(f"{post.number} cannot be posted")
            context.send(Posted(number=post.number))

    def note(self, command: Posted, context: Context) -> None:
        self.posted.append(command.number)
        self.parents.add(context.correlation_id)


def test_what_came_together_is_handled_together_when_the_oldest_has_waited_long_enough() -> None:
    shop = Shop()
    with testing(shop.app) as t:
        t.app.send([Post(number=n) for n in range(3)])
        t.drain()
        assert shop.calls == []
        assert sum(t.depth("posts")) == 3
        t.advance(3)
        t.send(Post(number=3))
        t.drain()
        assert shop.calls == []
        t.advance(2)
        t.drain()
        assert shop.calls == [[0, 1, 2]]  # what came later waits for its own time
        t.drain(to_the_end=True)
        assert shop.calls == [[0, 1, 2], [3]]
        assert sorted(shop.posted) == [0, 1, 2, 3]


def test_a_full_batch_does_not_wait_and_a_backlog_is_handled_batch_by_batch() -> None:
    shop = Shop(batch=10)
    with testing(shop.app) as t:
        t.app.send([Post(number=n) for n in range(25)])
        t.drain()
        assert shop.calls == [list(range(10)), list(range(10, 20))]
        t.drain(to_the_end=True)
        assert shop.calls[2:] == [list(range(20, 25))]


def test_what_each_command_sends_follows_from_it_and_leaves_with_it() -> None:
    shop = Shop(batch=2)
    with testing(shop.app) as t:
        sent = [t.send(Post(number=n)).id for n in range(2)]
        t.drain()
        assert shop.parents == set(sent)


def test_one_poison_item_takes_no_others_along_a_second_time() -> None:
    shop = Shop(batch=10, poison=4)
    with testing(shop.app) as t:
        t.app.send([Post(number=n) for n in range(10)])
        t.drain(to_the_end=True)
        assert shop.calls[0] == list(range(10))
        assert all(len(call) == 1 for call in shop.calls[1:])
        assert shop.calls.count([4]) == 2
        (letter,) = t.dead
        assert (letter.reason, letter.attempts) == ("attempts spent", 3)
        assert "4 cannot be posted" in (letter.error or "")
        assert sorted(shop.posted) == [0, 1, 2, 3, 5, 6, 7, 8, 9]


def test_an_error_that_all_share_is_told_with_the_traceback_of_the_call_only() -> None:
    shop = Shop(batch=20, poison=0)
    with testing(shop.app) as t:
        t.app.send([Post(number=n) for n in range(20)])
        t.drain()
        t.drain(to_the_end=True)
        (letter,) = t.dead
        assert (letter.error or "").count("in join") <= 1


@pytest.mark.parametrize("asynchronous", [True, False])
def test_a_handler_says_for_each_command_what_becomes_of_it(asynchronous: bool) -> None:
    app = App("verdicts")
    seen: list[list[int]] = []

    class Ask(Command, queue="ask", results=True):
        number: int

    def each(asked: list[Ask]) -> list[Any]:
        seen.append([one.number for one in asked])
        verdicts: dict[int, Any] = {0: Reject("no such account"), 1: RetryLater("busy", after=60) if len(asked) > 1 else "later", 2: "two"}
        return [verdicts[one.number] for one in asked]

    async def each_in_loop(asked: list[Ask]) -> list[Any]:
        await asyncio.sleep(0)
        return each(asked)

    app.handles(Ask, batch=3)(each_in_loop if asynchronous else each)
    with testing(app) as t:
        receipts = t.app.send([Ask(number=n) for n in range(3)])
        t.drain()
        assert [letter.reason for letter in t.dead] == ["no such account"]
        assert app.wait_for(app.aresult(receipts[2].id)) == "two"
        t.advance(60)
        t.drain()
        assert app.wait_for(app.aresult(receipts[1].id)) == "later"
    assert seen == [[0, 1, 2], [1]]


def test_a_list_that_does_not_fit_is_a_failed_attempt_of_all() -> None:
    app = App("misfit")

    class Ask(Command, queue="ask", retry=1):
        number: int

    @app.handles(Ask, batch=2)
    def ask(asked: list[Ask]) -> list[int]:
        return [1]

    with testing(app) as t:
        t.app.send([Ask(number=n) for n in range(2)])
        t.drain()
        assert len(t.dead) == 2
        assert "for each of its 2 commands" in (t.dead[0].error or "")


def test_commands_that_wait_for_others_keep_no_slot_from_those_that_do_not() -> None:
    shop = Shop(batch=50)
    with testing(shop.app, concurrency=1) as t:
        t.app.send([Post(number=n) for n in range(5)])
        t.send(Posted(number=99))
        t.drain()
        assert shop.posted == [99]
        assert shop.calls == []


def test_a_command_that_is_cancelled_while_it_waits_for_others_is_in_no_call() -> None:
    shop = Shop(batch=50)
    with testing(shop.app) as t:
        receipts = t.app.send([Post(number=n) for n in range(3)])
        t.drain()
        assert shop.app.cancel(receipts[1].id) == "delayed"
        t.drain(to_the_end=True)
        assert shop.calls == [[0, 2]]


def test_several_handlers_of_one_command_run_in_order_also_if_one_takes_several_at_once() -> None:
    app = App("ordered")
    ran: list[str] = []

    class Ask(Command, queue="ask"):
        number: int

    @app.handles(Ask)
    def first(command: Ask) -> None:
        ran.append(f"first {command.number}")

    @app.handles(Ask, batch=2)
    def second(commands: list[Ask]) -> None:
        ran.append(f"second {[one.number for one in commands]}")

    with testing(app) as t:
        t.app.send([Ask(number=n) for n in range(2)])
        t.drain()
    assert ran == ["first 0", "first 1", "second [0, 1]"]


def test_a_synchronous_handler_of_a_batch_runs_once_in_a_thread() -> None:
    app = App("threads")
    threads: list[str] = []

    class Ask(Command, queue="ask"):
        number: int

    @app.handles(Ask, batch=5)
    def ask(commands: list[Ask]) -> None:
        threads.append(threading.current_thread().name)

    with testing(app) as t:
        t.app.send([Ask(number=n) for n in range(5)])
        t.drain()
    assert len(threads) == 1
    assert threads[0].startswith("chappe-handler")


class Slow(Command, queue="slow", timeout=1.0):
    number: int


class Apart(Command, queue="apart", process=True):
    number: int


class Inline(Command, inline=True):
    number: int


async def takes_one(command: Post) -> None: ...
async def takes_one_context(commands: list[Post], context: Context) -> None: ...
def yields(commands: list[Post]) -> Any:
    yield commands[0]


async def takes_another(commands: list[Posted]) -> None: ...
async def takes_slow(commands: list[Slow]) -> None: ...
async def takes_inline(commands: list[Inline]) -> None: ...


async def takes_apart(commands: list[Apart]) -> None: ...
async def is_right(commands: list[Post]) -> None: ...


@pytest.mark.parametrize(
    ("kind", "handler", "options", "says"),
    [
        (Post, takes_one, {}, r"write command: list\["),
        (Post, takes_one_context, {}, r"contexts: list\[Context\]"),
        (Post, yields, {}, "would follow from none of its commands"),
        (Post, takes_another, {}, "its first parameter is a Posted"),
        (Slow, takes_slow, {"within": 1.0}, "its timeout must be longer"),
        (Inline, takes_inline, {}, "leave out inline=True"),
        (Apart, takes_apart, {}, "leave out process="),
        (Post, is_right, {"batch": 1}, "within 2..500"),
        (Post, is_right, {"batch": 501}, "within 2..500"),
        (Post, is_right, {"within": 0}, "within=0 must be seconds"),
    ],
)
def test_what_cannot_be_handled_together_is_refused_where_it_is_declared(
    kind: type[Command], handler: Any, options: dict[str, Any], says: str
) -> None:
    with pytest.raises(DefinitionError, match=says):
        App("refused").handles(kind, batch=options.get("batch", 10), within=options.get("within", 1.0))(handler)


def test_a_command_that_is_handled_in_a_process_of_its_own_is_refused_in_a_batch() -> None:
    app = App("apart")

    class Press(Command, queue="press", process=True):
        number: int

    with pytest.raises(DefinitionError, match="process of its own, one by one; leave out process=, or batch="):

        @app.handles(Press, batch=5)
        def press(commands: list[Press]) -> None: ...
