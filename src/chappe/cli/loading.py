"""Finding the settings and the application that a verb works on."""

from __future__ import annotations

import asyncio
import importlib
import os
import re
import sys
import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, Final, TypeVar

import click
from msgspec.structs import replace

import chappe
from chappe import engines
from chappe.app import App
from chappe.cli.logs import keep_loggers
from chappe.cli.terminal import say
from chappe.connection import Connection
from chappe.errors import ChappeError, DefinitionError, InvalidSettings, NotFound
from chappe.failures import summarize
from chappe.messages.topology import match
from chappe.redaction import shown
from chappe.search_path import add_project_folder
from chappe.settings import TOKEN_VARIABLE, Settings, load

R = TypeVar("R")

_OURS: Final = f"{Path(chappe.__file__).parent}{os.sep}"
_STANDARD: Final = f"{Path(os.__file__).parent}{os.sep}"


_held: list[Settings] = []


def hold(settings: Settings) -> None:
    """Have this process, and those that are forked from it, use these settings instead of reading them again."""
    _held[:] = [settings]


def settings_of(ctx: click.Context, **flags: Any) -> Settings:
    """Return the settings for this command line; raises `InvalidSettings`."""
    given: Mapping[str, Any] = ctx.obj
    if _held:
        given_now = {name: value for name, value in flags.items() if value is not None}
        return replace(_held[0], token=os.environ.get(TOKEN_VARIABLE), **given_now)
    return load({"app": given["app"], "broker": given["broker"], **flags}, file=given["config"])


def variables_of(settings: Settings, config: Path | None) -> dict[str, str]:
    """Return the variables by which another process finds the same application, engine and file of settings."""
    found = {
        "CHAPPE_APP": settings.app, "CHAPPE_BROKER": settings.broker, "CHAPPE_STORE": settings.store,
        "CHAPPE_STATE_DIR": settings.state_dir, "CHAPPE_CONFIG": config and str(config.resolve()),
    }  # fmt: skip
    return {name: value for name, value in found.items() if value is not None}


def named_app(settings: Settings) -> str:
    """Return how the application is named; raises `InvalidSettings` if it is not."""
    if settings.app is None:
        raise InvalidSettings("no application is named: use -A module:app, CHAPPE_APP, or app in chappe.toml")
    return settings.app


def chosen_queues(app: App, queues: Sequence[str], exclude: Sequence[str] = ()) -> list[str]:
    """Return the queues of an application that fit the names and patterns; raises `InvalidSettings` if a worker would have none."""
    known = app.registry.consumed_queues()
    wanted = match(map(app.registry.queue_name, queues), known)
    left = set(match(map(app.registry.queue_name, exclude), wanted))
    chosen = [queue for queue in wanted if queue not in left]
    if not chosen and (list(queues) != ["*"] or exclude):
        without = f' without "{",".join(exclude)}"' if exclude else ""
        raise InvalidSettings(f'no queue fits "{",".join(queues)}"{without}; this application serves: {", ".join(known) or "none"}')
    return chosen


def find_app(settings: Settings, *, role: str = "client", may_own_file: bool = True) -> App:
    """Import the application and have it use these settings; raises `DefinitionError` saying what is missing."""
    given = named_app(settings)
    name, _, attribute = given.partition(":")
    engines.load(settings)
    add_project_folder(str(Path.cwd()), sys.path)
    module = _imported(name, given)
    keep_loggers()
    found: Any = getattr(module, attribute or "app", None)
    if not isinstance(found, App):
        raise InvalidSettings(f'{name} has no application called "{attribute or "app"}": write app = App("name") there')
    known = settings if role == "gateway" else replace(settings, token=None)  # handlers have no use for it
    found.configure(known, role=role, may_own_file=may_own_file)
    found.registry.check(lambda handler: handler.unmet(found.providers))
    found.registry.topology()
    return found


def _imported(name: str, given: str) -> ModuleType:
    given = shown(given) if "@" in given else given  # a URL may have been put into the wrong variable
    if not re.fullmatch(r"\w+(\.\w+)*", name) or name.endswith(".py"):
        raise InvalidSettings(f"-A {given} names no module; write it like shop.tasks:app")
    try:
        return importlib.import_module(name)
    except ChappeError as error:
        error.args = (f"{_place(error.__traceback__)}{error}",)
        raise
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise InvalidSettings(
                f'no module is called "{error.name}" (for -A {given}); it was looked for in {Path.cwd()!s} and on sys.path'
            ) from None
        raise _broken(name, error) from error
    except (Exception, SystemExit) as error:  # whatever the user's own module does while it is imported
        raise _broken(name, error) from error


def _broken(name: str, error: BaseException) -> ChappeError:
    """Show the traceback below our own frames, and return the one sentence at the end of it."""
    trace = error.__traceback__
    while trace is not None and (
        trace.tb_frame.f_code.co_filename.startswith("<frozen ") or trace.tb_frame.f_globals.get("__name__") == __name__
    ):
        trace = trace.tb_next
    say("".join(traceback.format_exception(type(error), error, trace)).rstrip())
    kind = DefinitionError if isinstance(error, ImportError | SyntaxError) else ChappeError  # the others may be gone the next time
    return kind(f"{name} cannot be imported: {summarize(error)}{_shadowed(error)}")


def _place(trace: TracebackType | None) -> str:
    """Return the file and line of the user's code that was the last to run before ours, or nothing if there is none."""
    found = [
        (frame.f_code.co_filename, line)
        for frame, line in traceback.walk_tb(trace)
        if not frame.f_code.co_filename.startswith(("<", _OURS))
        and not (frame.f_code.co_filename.startswith(_STANDARD) and "-packages" not in frame.f_code.co_filename)
    ]
    return f"{found[-1][0]}:{found[-1][1]}: " if found else ""


def _shadowed(error: BaseException) -> str:
    """Say which file of the project was not meant by an import, though it has that name."""
    missing = error.name if isinstance(error, ImportError) else None
    own = Path.cwd() / f"{missing}.py"
    if missing not in sys.stdlib_module_names or not own.exists():
        return ""
    return f"; {own} has the name of a module of the standard library, which is found first: rename it"


def make_state_dir(settings: Settings) -> None:
    """Make the folder of what the processes of this host share; a file has it beside itself. Raises `InvalidSettings`."""
    if settings.is_file:
        return
    folder = settings.path.parent
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidSettings(
            f"state_dir: {folder} cannot be made ({error.strerror or error}); name a folder with CHAPPE_STATE_DIR"
        ) from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InvalidSettings(f"state_dir: {folder} cannot be written by this user; name another folder with CHAPPE_STATE_DIR")


def bare_app(settings: Settings, *, may_own_file: bool = True) -> App:
    """Return an application without messages, to look at queues with."""
    if settings.is_file and not settings.path.exists():
        raise NotFound(f"{settings.path} does not exist yet; the first message makes it (is --broker or CHAPPE_BROKER right?)")
    app = App("chappe")
    app.configure(settings, may_own_file=may_own_file)
    return app


def ask(ctx: click.Context, work: Callable[[Connection], Awaitable[R]]) -> R:
    """Ask the engine that the settings name for something, without an application."""
    return run_with(bare_app(settings_of(ctx)), work)


def run_with(app: App, work: Callable[[Connection], Awaitable[R]]) -> R:
    """Run something with a connection and close it."""

    async def run() -> R:
        try:
            return await work(await app.connection())
        finally:
            await app.aclose()

    return asyncio.run(run())
