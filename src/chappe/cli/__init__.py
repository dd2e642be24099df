"""The command line: `chappe VERB`; each verb is imported when it is used."""

from __future__ import annotations

import importlib
import io
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

import click
import setproctitle

from chappe.cli.first_process import divide_first_process
from chappe.cli.terminal import say
from chappe.errors import ChappeError
from chappe.redaction import remember_arguments

_VERBS: Final = {
    "run": "chappe.cli.run", "engine": "chappe.cli.processes", "worker": "chappe.cli.processes", "gateway": "chappe.cli.processes",
    "scheduler": "chappe.cli.processes", "launcher": "chappe.cli.launcher", "send": "chappe.cli.sending", "publish": "chappe.cli.sending",
    "queues": "chappe.cli.looking", "status": "chappe.cli.looking", "inspect": "chappe.cli.looking", "dead": "chappe.cli.letters",
    "purge": "chappe.cli.looking", "doctor": "chappe.cli.doctor", "recover": "chappe.cli.recover", "move": "chappe.cli.move",
    "openapi": "chappe.cli.looking", "schedules": "chappe.cli.looking", "watch": "chappe.cli.watching",
    "budgets": "chappe.cli.looking", "why": "chappe.cli.looking",
    "archive": "chappe.cli.archive",
    "pause": "chappe.cli.steering", "resume": "chappe.cli.steering", "scale": "chappe.cli.steering",
    "weight": "chappe.cli.steering",
    "reload": "chappe.cli.steering", "audit": "chappe.cli.steering", "cancel": "chappe.cli.steering", "top": "chappe.cli.top",
    "logs": "chappe.cli.tailing", "export": "chappe.cli.exporting", "handler": "chappe.cli.handler_processes",
}  # fmt: skip


class Verbs(click.Group):
    """Finds a verb's module by its name, so that `--help` imports nothing heavy."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [verb for verb in _VERBS if verb not in ("launcher", "handler")]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        module = _VERBS.get(cmd_name)
        return None if module is None else getattr(importlib.import_module(module), cmd_name.replace("-", "_"))


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": None})
@click.option("-A", "--app", metavar="MODULE:APP", help="The application, like shop.tasks:app (or CHAPPE_APP, or app in chappe.toml).")
@click.option("--broker", metavar="URL", help="Where messages wait, like sqlite:///chappe.db.")
@click.option("--config", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path), help="Instead of ./chappe.toml.")
@click.version_option(package_name="chappe")
@click.pass_context
def cli(ctx: click.Context, app: str | None, broker: str | None, config: Path | None) -> None:
    """Durable commands and events for Python.

    Data goes to stdout, everything else to stderr. Exit codes: 0 done, 1 failed, 2 usage, 69 broker unreachable,
    75 try again, 78 configuration.
    """
    ctx.obj = {"app": app, "broker": broker, "config": config}


def read(arguments: Sequence[str]) -> Callable[[], Any]:
    """Return what runs a verb with these arguments, which are read at once. Raises `click.ClickException`."""
    above = click.Context(cli, info_name="chappe", obj={"app": None, "broker": None, "config": None})
    name, *others = arguments
    verb = cli.get_command(above, name)
    assert verb is not None
    context = verb.make_context(name, others, above)

    def run() -> Any:
        with context:
            return verb.invoke(context)

    return run


def main(arguments: list[str] | None = None) -> Any:
    """Run the command line; what goes wrong is said in one sentence, with the exit code of its kind."""
    divide_first_process()
    given = sys.argv[1:] if arguments is None else arguments
    if remember_arguments(given):
        setproctitle.setproctitle("chappe")  # a password need not stand in the list of processes for long
    end_with(lambda: cli.main(args=given, prog_name="chappe", standalone_mode=False))


def end_with(verb: Callable[[], Any]) -> NoReturn:
    """Run a verb and end with its exit code; what goes wrong is said in one sentence."""
    try:
        sys.exit(verb() or 0)
    except ChappeError as error:
        say(f"chappe: {error}")
        sys.exit(error.exit_code)
    except click.ClickException as error:
        text = io.StringIO()
        error.show(text)
        say(text.getvalue().rstrip())
        sys.exit(error.exit_code)
    except click.Abort:
        say("Aborted!")
        sys.exit(1)
    except BrokenPipeError:
        sys.exit(0)
    except OSError as error:
        say(f"chappe: {error}")
        sys.exit(1)
    except Exception:  # a fault of ours: its traceback may quote what was given
        say(traceback.format_exc().rstrip())
        sys.exit(1)
