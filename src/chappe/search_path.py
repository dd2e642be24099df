"""Where modules are looked for: a project's own files never take the place of the standard library's.

A folder with the application often has a `secrets.py`, `email.py` or `queue.py`. Python puts the folder of `python -m` first on
`sys.path`, so that uvicorn's `import secrets` would find the project's file. This file imports only what every interpreter holds anyway.
"""

from __future__ import annotations

import os
import sys
from collections.abc import MutableSequence, Sequence


def child_command(arguments: Sequence[str]) -> list[str]:
    """Return the command line of a process of ours: `chappe` with these arguments, without the current folder on its path.

    It is an option and not the variable `PYTHONSAFEPATH`, which programs that a handler starts would inherit.
    """
    return [sys.executable, "-P", "-m", "chappe", *arguments]


def add_project_folder(folder: str, path: MutableSequence[str]) -> None:
    """Put a folder behind the standard library and before installed packages, unless it is on the path already."""
    if folder not in path and "" not in path:  # "" is the current folder, of a program that wanted it so
        path.insert(_end_of_library(path), folder)


def move_folder_of_dash_m(path: MutableSequence[str]) -> None:
    """Put the current folder behind the standard library while `python -m chappe` starts, which has just put it first."""
    command = f"{' '.join(sys.orig_argv)} "
    if sys.argv[:1] == ["-m"] and ("m chappe " in command or "-mchappe " in command) and not sys.flags.safe_path:
        add_project_folder(path.pop(0), path)


def _end_of_library(path: Sequence[str]) -> int:
    library = os.path.dirname(os.__file__)
    places = [index for index, entry in enumerate(path) if entry in (library, os.path.join(library, "lib-dynload"))]
    return places[-1] + 1 if places else len(path)
