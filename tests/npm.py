"""What tests need from npm: installed once for this machine, as a package-lock.json names it."""

from __future__ import annotations

import fcntl
import functools
import shutil
import subprocess
from pathlib import Path


@functools.cache
def installed(programs: Path, modules: Path) -> str | None:
    """Install into `modules` what the lock file beside programs names, and tell why that cannot be."""
    if absent := [name for name in ("node", "npm") if shutil.which(name) is None]:
        return f"not in the path: {', '.join(absent)} (Node.js with npm)"
    modules.mkdir(parents=True, exist_ok=True)
    lock, told = programs / "package-lock.json", modules / "installed"
    with (modules / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # of several runs one installs
        if not told.exists() or told.read_bytes() != lock.read_bytes():
            for name in ("package.json", "package-lock.json"):
                shutil.copy(programs / name, modules)
            command = ("npm", "install", "--no-save", "--no-audit", "--no-fund", "--ignore-scripts")
            done = subprocess.run(command, cwd=modules, capture_output=True, text=True, timeout=200, check=False)
            if done.returncode != 0:
                return f"npm cannot install what {lock} names: {done.stderr.strip()[-300:]}"
            told.write_bytes(lock.read_bytes())
    return None
