"""The settings: flag over environment over noria.toml over default, each checked when it is read."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct

from noria.errors import InvalidSettings

_UNPREFIXED: Final = {"PORT": "port", "LOG_LEVEL": "log_level"}
_PREFIX: Final = "NORIA_"
_LEVELS: Final = ("debug", "info", "warning", "error", "critical")
_FORMATS: Final = ("auto", "console", "json")


class Pool(Struct, frozen=True, forbid_unknown_fields=True):
    """Worker processes of one kind: which queues they serve (`*` is a wildcard), how many, and when each is renewed."""

    queues: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()
    processes: int = 1
    concurrency: int = 100
    max_messages: int | None = None
    max_age: float | None = None
    max_memory: int | None = None

    def __post_init__(self) -> None:
        if self.processes < 0 or self.concurrency < 1:
            raise ValueError("processes must be >= 0 and concurrency >= 1")
        for name in ("max_messages", "max_age", "max_memory"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be more than 0")


class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that can be configured; `broker` is a URL: `sqlite:///noria.db` is the file beside you."""

    app: str | None = None
    broker: str = "sqlite:///noria.db"
    host: str = "127.0.0.1"
    port: int = 7070
    token: str | None = None
    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    max_body: int = 1024 * 1024
    deadline: float = 5.0
    grace: float = 25.0
    log_level: str = "info"
    log_format: str = "auto"
    pools: dict[str, Pool] = msgspec.field(default_factory=lambda: {"default": Pool()})

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ValueError("port must be within 0..65535")
        if self.deadline <= 0 or self.grace < 0 or self.max_body <= 0:
            raise ValueError("deadline and max_body must be more than 0, grace not negative")
        if self.log_level.lower() not in _LEVELS:
            raise ValueError(f'log_level "{self.log_level}" must be one of {", ".join(_LEVELS)}')
        if self.log_format not in _FORMATS:
            raise ValueError(f'log_format "{self.log_format}" must be one of {", ".join(_FORMATS)}')
        if not self.broker.startswith("sqlite:///") or self.broker == "sqlite:///":
            raise ValueError(f'broker "{self.broker}" is not known; write sqlite:///noria.db, or with four slashes for an absolute path')

    @property
    def path(self) -> Path:
        """The file of the embedded engine."""
        return Path(self.broker.removeprefix("sqlite:///"))


def load(flags: Mapping[str, Any] | None = None, environment: Mapping[str, str] | None = None, file: Path | None = None) -> Settings:
    """Give the settings; raises `InvalidSettings` with the name of what is wrong and where it came from."""
    environment = os.environ if environment is None else environment
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}

    def put(found: Mapping[str, Any], source: str) -> None:
        for name, value in found.items():
            if name not in Settings.__struct_fields__:
                raise InvalidSettings(f'{source}: no setting is called "{name}"; known are: {", ".join(Settings.__struct_fields__)}')
            values[name] = value
            sources[name] = source

    chosen = file or Path(environment.get("NORIA_CONFIG", "noria.toml"))
    if chosen.exists():
        try:
            put(tomllib.loads(chosen.read_text()), str(chosen))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
            raise InvalidSettings(f"{chosen} cannot be read as TOML: {error}") from None
    elif file is not None or "NORIA_CONFIG" in environment:
        raise InvalidSettings(f"{chosen} does not exist")
    for variable, name in _UNPREFIXED.items():
        if environment.get(variable):
            put({name: environment[variable]}, variable)
    for name in Settings.__struct_fields__:
        value = environment.get(_PREFIX + name.upper())
        if value and name == "pools":
            raise InvalidSettings("NORIA_POOLS: pools are declared in noria.toml, each with its queues and processes")
        if value:
            put({name: value.split(",") if name.startswith("allowed_") else value}, _PREFIX + name.upper())
    put({name: value for name, value in (flags or {}).items() if value is not None}, "the command line")
    return _checked(values, sources)


def _checked(values: Mapping[str, Any], sources: Mapping[str, str]) -> Settings:
    types = {field.name: field.type for field in msgspec.structs.fields(Settings)}
    for name, value in values.items():
        try:
            msgspec.convert(value, types[name], strict=False)
        except msgspec.ValidationError as error:
            raise InvalidSettings(f"{sources[name]}: {name}: {error}") from None
    try:
        return msgspec.convert(dict(values), Settings, strict=False)
    except msgspec.ValidationError as error:
        raise InvalidSettings(str(error)) from None
