"""`manage.py chappe …`: the command line of Chappe, with the application and the settings of the project."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from chappe.integrations.django.application import environment
from chappe.search_path import child_command, project_folders

_PROJECT: Final = "chappe.integrations.django.project"


class Command(BaseCommand):
    """Becomes `chappe`, so that signals and exit codes are its own."""

    help = "Runs the command line of Chappe for this project: manage.py chappe run, manage.py chappe queues, …"
    requires_system_checks: Any = ()

    def run_from_argv(self, argv: Sequence[str]) -> None:
        """Replace this process."""
        sys.stdout.flush()
        os.execve(sys.executable, child_command(argv[2:]), dict(_variables()))  # noqa: S606 - our own program

    def add_arguments(self, parser: CommandParser) -> None:
        """Take everything as it is."""
        parser.add_argument("arguments", nargs="*")

    def handle(self, *args: Any, **options: Any) -> None:
        """Run it beside this process, for `call_command`; raises `CommandError` with its exit code."""
        code = subprocess.run(child_command([*map(str, options["arguments"])]), env=_variables(), check=False).returncode
        if code:
            raise CommandError(f"chappe ended with {code}", returncode=code)


def _variables() -> Mapping[str, str]:
    """Return the environment of a `chappe` of this project: what is set there already is left as it is."""
    ours = {f"CHAPPE_{name.upper()}": value for name, value in environment().items()}
    return {
        "CHAPPE_APP": _PROJECT, **ours, **os.environ,
        "PYTHONPATH": os.pathsep.join(project_folders(sys.path)), "DJANGO_SETTINGS_MODULE": str(settings.SETTINGS_MODULE),
    }  # fmt: skip
