"""`chappe` in a process of its own that has the imports done: a fork of a server in place of a Python that starts."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

PATIENCE = 200.0  # only what hangs takes so long
_STAYS = {"run", "engine", "worker", "gateway", "scheduler"}  # what starts others, or would go on: a Python of its own

# One server for all of a process of pytest: what is to be imported can be said once.
FORK = multiprocessing.get_context("forkserver")
FORK.set_forkserver_preload(
    [
        __name__,
        "chappe.cli",
        "chappe.cli.sending",
        "chappe.cli.looking",
        "chappe.cli.letters",
        "chappe.engines.file.client",
        "chappe.engines.file.serving",
        "chappe.app",
        "chappe.cli.loading",
        "chappe.cli.tables",
        "rich.table",
    ]
)


class Done(NamedTuple):
    """What a process left behind."""

    code: int
    out: bytes
    err: bytes


def run(folder: Path, environment: Mapping[str, str], arguments: Sequence[str | bytes], stdin: bytes = b"") -> Done:
    """Run `python -m chappe` with these arguments in a folder."""
    if _STAYS & {*arguments}:
        command = [sys.executable, "-m", "chappe", *arguments]
        ended = subprocess.run(command, cwd=folder, env=environment, input=stdin, capture_output=True, timeout=PATIENCE, check=False)
        return Done(ended.returncode, ended.stdout, ended.stderr)
    return _forked(folder, environment, [os.fsdecode(argument) for argument in arguments], stdin)


def program(folder: Path, environment: Mapping[str, str], text: str) -> Done:
    """Run a Python program as `python -c` does in a folder."""
    return _forked(folder, environment, text, b"")


def _forked(folder: Path, environment: Mapping[str, str], what: list[str] | str, stdin: bytes) -> Done:
    with tempfile.TemporaryDirectory(prefix="chappe-streams-") as aside:
        streams = [Path(aside) / name for name in ("in", "out", "err")]
        for path in streams:
            path.write_bytes(stdin if path.name == "in" else b"")
        process = FORK.Process(target=_main, args=(folder, dict(environment), what, streams))
        process.start()
        process.join(PATIENCE)
        assert process.exitcode is not None, f"{what} hangs"
        done = Done(process.exitcode, streams[1].read_bytes(), streams[2].read_bytes())
        process.close()
        return done


def _main(folder: Path, environment: dict[str, str], what: list[str] | str, streams: list[Path]) -> None:
    """Be `python -m chappe`, or `python -c`, in a process that the fork server made."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:] = [p for p in sys.path if p]
    for handle, (path, flags) in enumerate(zip(streams, (os.O_RDONLY, os.O_WRONLY, os.O_WRONLY), strict=True)):
        os.dup2(os.open(path, flags), handle)
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115 - for the life of the process
    from chappe.cli import main  # noqa: PLC0415 - not in the parent

    try:
        if isinstance(what, list):
            main(what)
        else:
            sys.path.insert(0, str(folder))
            exec(what, {"__name__": "__main__"})  # noqa: S102 - a program of a test
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
