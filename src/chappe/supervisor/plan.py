"""Which processes the settings and operators ask for, and how many."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from chappe.settings import Settings, processes_of


class ChildSpec(Struct, frozen=True):
    """What to run: a name for people, the arguments of `chappe`, seconds to end in, and seconds of silence that are borne.

    A process of a pool has variables of its own, and may have a bound in MiB above which it is killed.
    """

    name: str
    arguments: tuple[str, ...]
    grace: float = 30.0
    silence: float = 12.0
    pool: str | None = None
    variables: tuple[tuple[str, str], ...] = ()
    memory_limit: int | None = None
    start_retries: int | None = None
    slots: int = 0

    @property
    def role(self) -> str:
        """The verb that it runs: engine, gateway, scheduler or worker."""
        return self.arguments[0]

    @property
    def is_for_suspects(self) -> bool:
        """Whether it runs, one by one, the messages that workers of its pool died with."""
        return "--suspects" in self.arguments


ENGINE = ChildSpec("engine", ("engine",), 10.0, silence=3.0)


def plan(settings: Settings, counts: Mapping[str, int] | None = None, *, gateway: bool = True, scheduler: bool = True) -> list[ChildSpec]:
    """Return the processes that hold the application, in the order in which a new release replaces them: the gateway last.

    `counts` are the processes of pools; those that are not named have the least that is declared.
    """
    grace = settings.grace + 5.0
    specs = [spec for name in settings.pools for spec in _workers(settings, name, (counts or {}).get(name), grace)]
    if scheduler:
        specs.append(ChildSpec("scheduler", ("scheduler",), 10.0))
    if gateway:
        specs.append(ChildSpec("gateway", ("gateway",), grace))
    return specs


def suspects_spec(settings: Settings, pool: str) -> ChildSpec | None:
    """Return the process of a pool that runs, one by one, the messages in whose company a worker died; none for a pool that is gone."""
    if pool not in settings.pools:
        return None
    arguments = (*_arguments(settings, pool, concurrency=1), "--suspects")
    return _worker(settings, pool, f"{pool}-suspects", arguments, settings.grace + 5.0, 1)


def _workers(settings: Settings, name: str, count: int | None, grace: float) -> list[ChildSpec]:
    pool = settings.pools[name]
    arguments = list(_arguments(settings, name, pool.concurrency))
    for option in ("max_messages", "max_age", "max_memory"):
        value = getattr(pool, option)
        if value is not None:
            arguments += [f"--{option.replace('_', '-')}", str(value)]
    numbers = range(1, (pool.bounds[0] if count is None else count) + 1)
    return [_worker(settings, name, f"{name}-{number}", tuple(arguments), grace, pool.concurrency) for number in numbers]


def _worker(settings: Settings, pool: str, name: str, arguments: tuple[str, ...], grace: float, slots: int) -> ChildSpec:
    asked = settings.pools[pool]
    return ChildSpec(
        name, arguments, grace, pool=pool, variables=tuple(asked.environment.items()), memory_limit=asked.memory_limit,
        start_retries=asked.start_retries, slots=slots,
    )  # fmt: skip


def _arguments(settings: Settings, name: str, concurrency: int) -> tuple[str, ...]:
    pool = settings.pools[name]
    arguments = ["worker", "--name", name, "-c", str(concurrency), "-Q", ",".join(pool.queues)]
    if pool.exclude:
        arguments += ["-X", ",".join(pool.exclude)]
    if pool.nice:
        arguments += ["--nice", str(pool.nice)]
    if pool.log is not None:
        arguments += ["--log", pool.log]
    return tuple(arguments)


class Pools:
    """What is wanted of the pools, whatever the release."""

    def __init__(self) -> None:
        self._wanted: dict[str, str] = {}
        self._chosen: dict[str, int] = {}

    def want(self, pool: str, processes: str | None) -> None:
        """Hear what an operator wants of a pool: a number, "min..max", or what is declared. Raises `ValueError`."""
        if processes is None:
            self._wanted.pop(pool, None)
        else:
            processes_of(processes)
            self._wanted[pool] = processes

    def choose(self, pool: str, count: int) -> None:
        """Hear how many processes autoscale wants within the bounds."""
        self._chosen[pool] = count

    def bounds(self, settings: Settings, pool: str) -> tuple[int, int]:
        """Return the least and the largest number of processes."""
        wanted = self._wanted.get(pool)
        return settings.pools[pool].bounds if wanted is None else processes_of(wanted)

    def counts(self, settings: Settings) -> dict[str, int]:
        """Return how many processes each pool of a release has."""
        found: dict[str, int] = {}
        for pool in settings.pools:
            least, most = self.bounds(settings, pool)
            found[pool] = min(most, max(least, self._chosen.get(pool, least)))
        return found
