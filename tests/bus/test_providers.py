"""Providers: one instance for each process, closed at exit in reverse order."""

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Annotated, Any

import pytest

from chappe.bus.providers import Providers
from chappe.errors import DefinitionError, DuplicateName

from .decorators import Traced, wrapped


class Pool:
    pass


class Session:
    def __init__(self, pool: Pool) -> None:
        self.pool = pool


def vague(pool) -> Session:  # type: ignore[no-untyped-def] # noqa: ANN001
    return Session(pool)


def positional(pool: Pool, /) -> Session:
    return Session(pool)


class Mailer:
    def __init__(self, session: Session) -> None:
        self.session = session


async def test_one_instance_is_made_and_given_to_all() -> None:
    made: list[int] = []

    def pool() -> Pool:
        made.append(1)
        return Pool()

    providers = Providers()
    providers.add(pool)
    assert providers.knows(Pool) and not providers.knows(Session)
    assert await providers.get(Pool) is await providers.get(Pool)
    assert made == [1]


async def test_all_four_colours_provide_and_generators_are_closed_in_reverse() -> None:
    log: list[str] = []

    def pool() -> Iterator[Pool]:
        yield Pool()
        log.append("pool closed")

    async def session(pool: Pool) -> AsyncIterator[Session]:
        yield Session(pool)
        log.append("session closed")

    async def mailer(session: Session) -> Mailer:
        return Mailer(session)

    providers = Providers()
    for maker in (mailer, session, pool):
        providers.add(maker)
    made = await providers.get(Mailer)
    assert isinstance(made.session.pool, Pool)
    assert log == []
    await providers.close()
    assert log == ["session closed", "pool closed"]


async def test_after_closing_a_new_instance_is_made() -> None:
    def pool() -> Iterator[Pool]:
        yield Pool()

    providers = Providers()
    providers.add(pool)
    first = await providers.get(Pool)
    await providers.close()
    assert await providers.get(Pool) is not first
    await providers.close()


async def test_providers_that_need_each_other_in_a_circle_are_named() -> None:
    def pool(session: Session) -> Pool:
        raise AssertionError

    def session(pool: Pool) -> Session:
        raise AssertionError

    providers = Providers()
    providers.add(pool)
    providers.add(session)
    with pytest.raises(DefinitionError, match="circle: Pool -> Session -> Pool"):
        await providers.get(Pool)


async def test_what_nothing_provides_is_an_error_with_the_remedy() -> None:
    def session(pool: Pool) -> Session:
        raise AssertionError

    providers = Providers()
    providers.add(session)
    with pytest.raises(DefinitionError, match=r"nothing provides Pool.*@app\.provides"):
        await providers.get(Session)


def test_two_providers_of_one_type_are_refused_by_name() -> None:
    def first() -> Pool:
        raise AssertionError

    def second() -> Pool:
        raise AssertionError

    providers = Providers()
    providers.add(first)
    with pytest.raises(DuplicateName, match=r"Pool is provided by .*first \(.*\) already; .*second \(.*test_providers.py:\d+\)"):
        providers.add(second)


def test_a_provider_without_a_return_annotation_is_refused() -> None:
    def bare():  # noqa: ANN202 - this is the fault
        return Pool()

    def nothing() -> None: ...

    for function in (bare, nothing):
        with pytest.raises(DefinitionError, match=r"\(.*test_providers.py:\d+\) needs a return annotation"):
            Providers().add(function)


@pytest.mark.parametrize("wrap", [wrapped, Traced, functools.partial, contextlib.contextmanager])
async def test_a_provider_may_stand_behind_a_decorator(wrap: Callable[[Any], Any]) -> None:
    log: list[str] = []

    def pool() -> Pool:
        return Pool()

    def session(pool: Pool) -> Iterator[Session]:
        yield Session(pool)
        log.append("closed")

    providers = Providers()
    providers.add(pool)
    providers.add(wrap(session))
    assert isinstance((await providers.get(Session)).pool, Pool)
    await providers.close()
    assert log == ["closed"]


async def test_an_asynchronous_context_manager_provides_what_it_yields() -> None:
    log: list[str] = []

    @contextlib.asynccontextmanager
    async def pool() -> AsyncIterator[Pool]:
        yield Pool()
        log.append("closed")

    providers = Providers()
    providers.add(pool)
    assert isinstance(await providers.get(Pool), Pool)
    await providers.close()
    assert log == ["closed"]


async def test_what_is_annotated_or_optional_is_provided_by_its_type() -> None:
    providers, tool = Providers(), Pool()
    providers.put(Pool, tool)
    for kind in (Annotated[Pool, "primary"], Annotated[Pool, {"not": "hashable"}], Pool | None, Annotated[Pool | None, 1]):
        assert providers.knows(kind)
        assert await providers.get(kind) is tool
    assert not providers.knows(Pool | int)


async def test_two_of_one_type_are_told_apart_by_what_annotated_says() -> None:
    def primary() -> Annotated[Pool, "primary"]:
        return first

    def replica() -> Annotated[Pool, "replica"]:
        return second

    def session(pool: Annotated[Pool, "replica"]) -> Session:
        return Session(pool)

    first, second, providers = Pool(), Pool(), Providers()
    for maker in (primary, replica, session):
        providers.add(maker)
    assert await providers.get(Annotated[Pool, "primary"]) is first
    assert (await providers.get(Session)).pool is second


async def test_a_provider_does_without_what_has_a_default_and_nothing_provides() -> None:
    def session(pool: Pool | None = None, size: int = 3) -> Session:
        assert (pool, size) == (None, 3)
        return Session(Pool())

    providers = Providers()
    providers.add(session)
    assert isinstance(await providers.get(Session), Session)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (5, "5 is no function"),
        (Pool, "Pool is a class"),
        (lambda pool: Pool(), "needs a return annotation"),
        (vague, 'parameter "pool" needs an annotation'),
        (positional, 'parameter "pool" is given by its name'),
    ],
)
def test_a_provider_that_cannot_provide_is_refused_where_it_is_declared(given: Any, says: str) -> None:
    with pytest.raises(DefinitionError, match=says):
        Providers().add(given)


def test_a_generator_provides_what_it_yields() -> None:
    def maker() -> Iterator[Pool]:
        yield Pool()

    async def amaker() -> AsyncIterator[Session]:
        yield Session(Pool())

    providers = Providers()
    providers.add(maker)
    providers.add(amaker)
    assert providers.knows(Pool) and providers.knows(Session)


async def test_an_instance_that_was_put_wins() -> None:
    def pool() -> Pool:
        raise AssertionError("must not be called")

    providers = Providers()
    providers.add(pool)
    mine = Pool()
    providers.put(Pool, mine)
    assert await providers.get(Pool) is mine


async def test_a_provider_that_fails_fails_again_and_leaves_nothing_half_made() -> None:
    attempts: list[int] = []

    def pool() -> Pool:
        attempts.append(1)
        if len(attempts) == 1:
            raise OSError("no server")
        return Pool()

    providers = Providers()
    providers.add(pool)
    with pytest.raises(OSError, match="no server"):
        await providers.get(Pool)
    assert isinstance(await providers.get(Pool), Pool)


def make_pool() -> Pool:
    return Pool()


class Client:
    """What belongs to the event loop in which it was made."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()


def test_each_event_loop_has_an_instance_of_its_own_closed_at_its_end_in_reverse() -> None:
    log: list[str] = []

    async def client() -> AsyncIterator[Client]:
        yield Client()
        log.append("client closed")

    def session(client: Client) -> Iterator[Session]:
        yield Session(Pool())
        log.append("session closed")

    providers = Providers()
    providers.add(client)
    providers.add(session)

    async def main() -> Client:
        await providers.get(Session)
        made: Client = await providers.get(Client)
        assert made.loop is asyncio.get_running_loop()
        return made

    first, second = asyncio.run(main()), asyncio.run(main())
    assert first is not second
    assert log == ["session closed", "client closed"] * 2, "nobody closed the application, but each loop ended"


async def test_closing_in_one_event_loop_leaves_what_another_one_has() -> None:
    closed: list[str] = []

    async def client() -> AsyncIterator[Client]:
        yield Client()
        closed.append("a client")

    providers = Providers()
    providers.add(client)
    mine = await providers.get(Client)

    async def elsewhere() -> Client:
        made: Client = await providers.get(Client)
        await providers.close()
        return made

    assert await asyncio.to_thread(lambda: asyncio.run(elsewhere())) is not mine
    assert closed == ["a client"]
    assert await providers.get(Client) is mine
    await providers.close()
    assert closed == ["a client", "a client"]


async def test_a_provider_that_failed_is_tried_again_with_what_it_needs_made_once() -> None:
    tries: list[str] = []

    def pool() -> Pool:
        tries.append("pool")
        return Pool()

    async def session(pool: Pool) -> AsyncIterator[Session]:
        tries.append("session")
        if tries.count("session") == 1:
            raise OSError("the database is away")
        yield Session(pool)

    providers = Providers()
    providers.add(pool)
    providers.add(session)
    with pytest.raises(OSError, match="is away"):
        await providers.get(Session)
    assert isinstance(await providers.get(Session), Session)
    assert tries == ["pool", "session", "session"]
    await providers.close()


async def test_an_instance_that_was_put_is_given_in_every_event_loop_until_it_is_taken_back() -> None:
    providers, mine = Providers(), Pool()
    providers.add(make_pool)
    providers.put(Pool, mine)
    assert await asyncio.to_thread(lambda: asyncio.run(providers.get(Pool))) is mine
    await providers.close()
    assert await providers.get(Pool) is mine
    providers.put_nothing()
    assert await providers.get(Pool) is not mine
