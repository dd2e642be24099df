"""Which processes the settings ask for. Pure."""

from __future__ import annotations

from msgspec import Struct

from chappe.settings import Settings


class ChildSpec(Struct, frozen=True):
    """What to run: a name for people, the arguments of `chappe`, seconds to end in, and seconds of silence that are borne."""

    name: str
    arguments: tuple[str, ...]
    grace: float = 30.0
    silence: float = 12.0
    pool: str | None = None

    @property
    def role(self) -> str:
        """The verb that it runs: engine, gateway, scheduler or worker."""
        return self.arguments[0]


ENGINE = ChildSpec("engine", ("engine",), 10.0, silence=3.0)


def plan(settings: Settings, *, gateway: bool = True, scheduler: bool = True) -> list[ChildSpec]:
    """Return the processes that hold the application, in the order in which a new release replaces them: the gateway last."""
    grace = settings.grace + 5.0
    specs = [spec for name in settings.pools for spec in _workers(settings, name, grace)]
    if scheduler:
        specs.append(ChildSpec("scheduler", ("scheduler",), 10.0))
    if gateway:
        specs.append(ChildSpec("gateway", ("gateway",), grace))
    return specs


def suspects_spec(settings: Settings, pool: str) -> ChildSpec | None:
    """Return the process of a pool that runs, one by one, the messages in whose company a worker died; none for a pool that is gone."""
    if pool not in settings.pools or settings.is_rabbitmq:
        return None
    arguments = (*_arguments(settings, pool, concurrency=1), "--suspects")
    return ChildSpec(f"{pool}-suspects", arguments, settings.grace + 5.0, pool=pool)


def _workers(settings: Settings, name: str, grace: float) -> list[ChildSpec]:
    pool = settings.pools[name]
    arguments = list(_arguments(settings, name, pool.concurrency))
    for option in ("max_messages", "max_age", "max_memory"):
        value = getattr(pool, option)
        if value is not None:
            arguments += [f"--{option.replace('_', '-')}", str(value)]
    return [ChildSpec(f"{name}-{number}", tuple(arguments), grace, pool=name) for number in range(1, pool.count + 1)]


def _arguments(settings: Settings, name: str, concurrency: int) -> tuple[str, ...]:
    pool = settings.pools[name]
    arguments = ("worker", "--name", name, "-c", str(concurrency), "-Q", ",".join(pool.queues))
    return (*arguments, "-X", ",".join(pool.exclude)) if pool.exclude else arguments
