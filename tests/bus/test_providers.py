"""Providers: one instance for each process, closed at exit in reverse order."""

from collections.abc import AsyncIterator, Iterator

import pytest

from chappe.bus.providers import Providers, provided_type
from chappe.errors import DefinitionError, DuplicateName


class Pool:
    pass


class Session:
    def __init__(self, pool: Pool) -> None:
        self.pool = pool


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
    with pytest.raises(DuplicateName, match="Pool is provided by .*first already; .*second"):
        providers.add(second)


def test_a_provider_without_a_return_annotation_is_refused() -> None:
    def bare():  # noqa: ANN202 - this is the fault
        return Pool()

    def nothing() -> None: ...

    for function in (bare, nothing):
        with pytest.raises(DefinitionError, match="needs a return annotation"):
            Providers().add(function)


def test_a_generator_provides_what_it_yields() -> None:
    def maker() -> Iterator[Pool]:
        yield Pool()

    async def amaker() -> AsyncIterator[Session]:
        yield Session(Pool())

    assert provided_type(maker) is Pool
    assert provided_type(amaker) is Session


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
