"""Programs that send one message after the other beside `chappe run`, and write down what they were told of each."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...processes.conftest import Mill

_PROGRAM = """
import pathlib, sys, time
from mill import *
from chappe import ChappeError
prefix, seconds, n = sys.argv[1], float(sys.argv[2]), 0
with open(f"told-{prefix}", "w", buffering=1) as log:
    while not pathlib.Path(f"enough-{prefix}").exists():
        name, n = f"{prefix}{n}", n + 1
        try:
            app.send(Work(name=name, seconds=seconds))
            log.write(f"stored {name}\\n")
        except ChappeError as error:
            log.write(f"{type(error).__name__} {name} {error}\\n")
            time.sleep(0.05)
app.close()
"""


class Senders:
    """Some of them, each with its own beginning of names; their messages run for so long, or until the mill's are released."""

    def __init__(self, mill: Mill, prefixes: tuple[str, ...], seconds: float) -> None:
        self._mill = mill
        self._prefixes = prefixes
        self._programs: dict[str, subprocess.Popen[str]] = {prefix: mill.script(_PROGRAM, prefix, str(seconds)) for prefix in prefixes}

    def told(self, outcome: str) -> list[str]:
        """Return the names of the messages that ended so: *stored*, or the name of an error."""
        return [words[1] for words in self._lines() if words[0] == outcome]

    def outcomes(self) -> set[str]:
        """Return everything that they were told."""
        return {words[0] for words in self._lines()}

    def _lines(self) -> list[list[str]]:
        found: list[list[str]] = []
        for prefix in self._prefixes:
            path = self._mill.folder / f"told-{prefix}"
            lines = path.read_text().split("\n")[:-1] if path.exists() else []  # the last one may be half written
            found += [line.split() for line in lines]
        return found

    def stop(self) -> None:
        """Have them end, and see that they end in order."""
        for prefix in self._prefixes:
            Path(self._mill.folder / f"enough-{prefix}").touch()
        for program in self._programs.values():
            program.communicate(timeout=200)
            assert program.returncode == 0

    def close(self) -> None:
        """Leave none behind."""
        for program in self._programs.values():
            if program.poll() is None:
                program.kill()
            program.communicate()


@contextmanager
def sending(mill: Mill, *prefixes: str, seconds: float = 0.0) -> Iterator[Senders]:
    """Have programs send until they are stopped, at the latest at the end."""
    senders = Senders(mill, prefixes, seconds)
    try:
        yield senders
    finally:
        senders.close()
