"""Where modules are looked for: a project's own files never take the place of the standard library's.

A folder with the application often has a `secrets.py`, `email.py` or `queue.py`. Python puts the folder of `python -m` first on
`sys.path`, then those of `PYTHONPATH`, so that uvicorn's `import secrets` would find the project's file. This file imports only what
every interpreter holds anyway.
"""

from __future__ import annotations

import os
import sys
from collections.abc import MutableSequence, Sequence
from typing import Final

_aside: Final[list[str]] = []  # folders that stand last until the application is looked for


def child_command(arguments: Sequence[str]) -> list[str]:
    """Return the command line of a process of ours: `chappe` with these arguments, without the current folder on its path.

    It is an option and not the variable `PYTHONSAFEPATH`, which programs that a handler starts would inherit.
    """
    return [sys.executable, "-P", "-m", "chappe", *arguments]


def add_project_folder(folder: str, path: MutableSequence[str]) -> None:
    """Put a folder, and those that were put aside, behind the standard library and before installed packages.

    One that is on the path already stays where it is.
    """
    wanted = [waiting for waiting in _aside if waiting in path]
    path[:] = [entry for entry in path if entry not in wanted]
    if folder not in (*wanted, *path) and "" not in path:  # "" is the current folder, of a program that wanted it so
        wanted.insert(0, folder)
    end = _end_of_library(path)
    path[end:end] = wanted
    _aside.clear()


def project_folders(path: Sequence[str]) -> list[str]:
    """Return the folders that stand before the standard library's, where a program finds its own modules."""
    first = path.index(os.path.dirname(os.__file__)) if os.path.dirname(os.__file__) in path else len(path)
    return [os.path.abspath(entry) for entry in path[:first] if not entry.endswith(".zip")]


def put_aside_project_folders(path: MutableSequence[str]) -> None:
    """Put the current folder of `python -m`, and those of `PYTHONPATH`, last while `chappe` starts: what it imports is not meant there."""
    command = f"{' '.join(sys.orig_argv)} "
    by_name = sys.argv[:1] == ["-m"] and ("m chappe " in command or "-mchappe " in command)
    if not by_name and os.path.basename(sys.argv[0]) != "chappe":
        return  # a program that imports us has the order that it wants
    folders = [path[0]] if by_name and not sys.flags.safe_path else []
    if given := os.environ.get("PYTHONPATH"):
        folders += [folder for entry in given.split(os.pathsep) if (folder := os.path.abspath(entry)) in path]
    _aside.extend(dict.fromkeys(folders))
    path[:] = [*(entry for entry in path if entry not in _aside), *_aside]


def _end_of_library(path: Sequence[str]) -> int:
    library = os.path.dirname(os.__file__)
    places = [index for index, entry in enumerate(path) if entry in (library, os.path.join(library, "lib-dynload"))]
    return places[-1] + 1 if places else len(path)
