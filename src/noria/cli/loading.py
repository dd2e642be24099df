"""Finding the settings and the application that a verb works on."""

from __future__ import annotations

import asyncio
import importlib
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from noria.app import App, Connection
from noria.errors import InvalidSettings, NotFound
from noria.settings import Settings, load

R = TypeVar("R")


def settings_of(ctx: click.Context, **flags: Any) -> Settings:
    """Give the settings for this command line; raises `InvalidSettings`."""
    given: Mapping[str, Any] = ctx.obj
    return load({"app": given["app"], "broker": given["broker"], **flags}, file=given["config"])


def find_app(settings: Settings, *, role: str = "client", alone: bool = True) -> App:
    """Import the application and have it use these settings; raises `DefinitionError` saying what is missing."""
    if settings.app is None:
        raise InvalidSettings("no application is named: use -A module:app, NORIA_APP, or app in noria.toml")
    name, _, attribute = settings.app.partition(":")
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        if name.startswith("."):
            raise ValueError(name)
        module = importlib.import_module(name)
    except (TypeError, ValueError):
        raise InvalidSettings(f"-A {settings.app} names no module; write it like shop.tasks:app") from None
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise InvalidSettings(
                f'no module is called "{error.name}" (for -A {settings.app}); it was looked for in {Path.cwd()!s} and on sys.path'
            ) from None
        raise
    found: Any = getattr(module, attribute or "app", None)
    if not isinstance(found, App):
        raise InvalidSettings(f'{name} has no application called "{attribute or "app"}": write app = App("name") there')
    found.configure(settings, role=role, alone=alone)
    found.registry.check(lambda handler: handler.unmet(found.providers))
    found.registry.topology()
    return found


def bare_app(settings: Settings) -> App:
    """Give an application without messages, to look at queues with."""
    if not settings.path.exists():
        raise NotFound(f"{settings.path} does not exist yet; the first message makes it (is --broker or NORIA_BROKER right?)")
    app = App("noria", settings=settings)
    app.configure(settings)
    return app


def run_with(app: App, work: Callable[[Connection], Awaitable[R]]) -> R:
    """Run something with a connection and close it."""

    async def run() -> R:
        try:
            return await work(await app.connection())
        finally:
            await app.aclose()

    return asyncio.run(run())
