"""`chappe` as a process of its own in a folder of its own, run once for all rows that need it."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import stat
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from tests import commands

from .house import APPLICATION, clean_environment
from .row import Answer


class Run(NamedTuple):
    """One call of the command line."""

    arguments: tuple[str | bytes, ...]
    app: str | None
    stdin: bytes
    env: tuple[tuple[str, str], ...]
    files: tuple[tuple[str, str | bytes], ...]
    prepare: Callable[[Path], None] | None
    taken: bool
    makes: tuple[str, ...]

    def __call__(self, _: object) -> Answer:
        """Return what the process said, and tell what it changed among the files that were there."""
        folder = Path(tempfile.mkdtemp(prefix="chappe-input-"))
        try:
            return self._run_in(folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _run_in(self, folder: Path) -> Answer:
        (folder / "shop.py").write_text(APPLICATION)
        for name, content in self.files:
            (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        if self.prepare is not None:
            self.prepare(folder)
        environment = {**clean_environment(), **({"CHAPPE_PORT": "0"} if "run" in self.arguments else {}), **dict(self.env)}
        if self.app is not None:
            environment["CHAPPE_APP"] = self.app
        before = contents(folder)
        with socket.create_server(("127.0.0.1", 0)) as other:
            words = [str(other.getsockname()[1]) if self.taken and word == "PORT" else word for word in self.arguments]
            done = commands.run(folder, environment, words, self.stdin)
        text = (done.out + done.err).decode(errors="replace").replace('\\"', '"')
        after = contents(folder)
        changed = [name for name in before if after.get(name) != before[name]]
        made = [name for name in after if name not in before and not name.startswith(self.makes or ("\0",))]
        assert changed == [], f"{changed} were changed\n{text}"
        assert made == [], f"{made} were made\n{text}"
        return Answer(str(done.code), text)


def chappe(
    *arguments: str | bytes,
    app: str | None = "shop:app",
    stdin: bytes = b"",
    env: Mapping[str, str] | None = None,
    files: Mapping[str, str | bytes] | None = None,
    prepare: Callable[[Path], None] | None = None,
    taken: bool = False,
    makes: tuple[str, ...] = (),
) -> Run:
    """Describe a call; nothing may be made or changed in its folder but what `makes` begins the name of."""
    return Run(arguments, app, stdin, tuple((env or {}).items()), tuple((files or {}).items()), prepare, taken, makes)


def contents(folder: Path) -> dict[str, str]:
    """Return a digest of every file in a folder, but for what Python itself leaves behind."""
    found: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        if "__pycache__" in path.parts or not stat.S_ISREG(os.lstat(path).st_mode):
            continue
        found[str(path.relative_to(folder))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found
