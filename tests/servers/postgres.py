"""A PostgreSQL server of one's own: in its own folder, on a free loopback port, with a role and a database named `chappe`.

PostgreSQL refuses to be root. For root it runs as the system's user `postgres`, with one capability more than that user has:
CAP_DAC_OVERRIDE. With it the data stay in the folder that was asked for, below parents which only root may enter, as those of
pytest's folders are. A place outside of them would have to be removed by someone, and a run that was killed removes nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pwd
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Self

import psutil

from .ports import LOOPBACK, free_ports

VERSIONS: Final = Path("/usr/lib/postgresql")
PATIENCE: Final = 90.0
_LOOK: Final = 0.02
_TOLD: Final = 4_000


def _newest() -> Path | None:
    """Return where the programs of the newest PostgreSQL are."""
    found = [server.parent for server in VERSIONS.glob("*/bin/postgres")]
    return max(found, key=lambda programs: [int(number) for number in programs.parent.name.split(".")], default=None)


def _stand_in() -> pwd.struct_passwd | None:
    """Return whom PostgreSQL runs as for root; none if we are not root, and it runs as ourselves."""
    if os.geteuid() != 0:
        return None
    with contextlib.suppress(KeyError):
        return pwd.getpwnam("postgres")
    return pwd.getpwnam("nobody")


def _program(name: str) -> str:
    programs = _newest()
    assert programs is not None, PostgresNode.missing()
    return str(programs / name)


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")} | {"LC_ALL": "C"}


def _lives(process: psutil.Process) -> bool:
    """Tell whether a process still runs; one that ended and waits for its parent, or for init, does not."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


class PostgresNode:
    """One server, whose data outlive `kill` and `stop`: `start` runs it again, on the same port.

    `configuration` is added to its postgresql.conf. What it prints stays in `logs`. It dies with the thread that started it,
    which should be the main one: a run that was killed leaves no server behind.
    """

    def __init__(self, folder: Path, configuration: str = "") -> None:
        self.folder = folder.resolve()
        self.logs = self.folder / "logs"
        self.data = self.folder / "data"
        (self.port,) = free_ports(1)
        # All its processes show this name; it follows from the folder, where only one server can run.
        self.name = f"chappe-{hashlib.blake2s(str(self.folder).encode(), digest_size=6).hexdigest()}"
        self._user = _stand_in()
        self._server: subprocess.Popen[bytes] | None = None
        self._printed = 0
        self.logs.mkdir(parents=True, exist_ok=True)
        (self.logs / "console").touch()
        (self.folder / "postgresql.conf").write_text(f"include 'data/postgresql.conf'\n{configuration}\n")

    @staticmethod
    def missing() -> str | None:
        """Tell why no server can be started here; none if one can."""
        if _newest() is None:
            return "PostgreSQL is not installed (Debian's package postgresql)"
        return "not in the path: setpriv" if shutil.which("setpriv") is None else None

    @property
    def url(self) -> str:
        """Where clients connect to."""
        return f"postgresql://chappe@{LOOPBACK}:{self.port}/chappe"

    @property
    def pid(self) -> int:
        """The postmaster's process."""
        assert self._server is not None, "the server was not started"
        return self._server.pid

    def start(self) -> None:
        """Start, and return when it accepts connections; the first start makes the data."""
        assert self._server is None, "the server runs"
        if not self.data.exists():
            self._make_data()
        self._forget_a_zombie()
        settings = {
            "config_file": self.folder / "postgresql.conf",
            "cluster_name": self.name,
            "listen_addresses": LOOPBACK,
            "port": self.port,
            "unix_socket_directories": "",
            "dynamic_shared_memory_type": "mmap",  # among its data, which goes with the folder: a killed one leaves nothing in memory
        }
        options = (f"--{key}={value}" for key, value in settings.items())
        try:
            self._server = self._popen(self.data, "postgres", "-D", self.data, *options, stdin=subprocess.DEVNULL)
            self._until(self._accepts, self._server)
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """End it as an administrator would, with its sessions; by force, with a word on stderr, when it takes too long."""
        self._end(signal.SIGINT)  # PostgreSQL's fast shutdown; with SIGTERM it waits for its clients to leave

    def kill(self) -> None:
        """End it as a crash would, all its processes at once; what that leaves in shared memory is removed by the next start."""
        self._end(signal.SIGKILL)

    def processes(self) -> list[psutil.Process]:
        """Return everything that runs of it, the postmaster and each child, and also children whose postmaster is gone."""
        found: list[psutil.Process] = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):  # among these: what has ended, but was not waited for
                if any(self.name in part for part in process.cmdline()):
                    found.append(process)
        return found

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Have it do nothing, with its connections open, for as long as this lasts."""
        processes = self.processes()
        try:
            for process in processes:
                with contextlib.suppress(psutil.NoSuchProcess):  # a session that has ended
                    process.suspend()
            yield
        finally:
            for process in processes:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.resume()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _make_data(self) -> None:
        """Make the data in another place and move them when complete: what a crash left half made is never started."""
        fresh = self.folder / "fresh"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(0o700)
        if self._user is not None:
            os.chown(fresh, self._user.pw_uid, self._user.pw_gid)
        trust = ("--auth-host=trust", "--auth-local=reject")  # for initdb, a host is one of 127.0.0.1 and ::1
        self._run(fresh, "initdb", "-D", fresh, "--username=chappe", "--encoding=UTF8", "--locale=C", *trust)
        create = "CREATE DATABASE chappe\n"
        self._run(fresh, "postgres", "--single", "-D", fresh, "-c", "exit_on_error=on", "postgres", told=create)
        fresh.rename(self.data)

    def _forget_a_zombie(self) -> None:
        """Remove the lock of a postmaster that ended: while nobody has waited for it, PostgreSQL takes it for one that runs.

        That is so when its starter was killed, until init has waited for it; in many a container there is no init that does.
        """
        lock = self.data / "postmaster.pid"
        with contextlib.suppress(FileNotFoundError, psutil.NoSuchProcess):
            postmaster = psutil.Process(int(lock.read_text().splitlines()[0]))
            if not _lives(postmaster) and not self.processes():
                lock.unlink()

    def _run(self, cwd: Path, program: str, *options: str | Path, told: str = "") -> None:
        with self._popen(cwd, program, *options, stdin=subprocess.PIPE) as process:
            try:
                process.communicate(told.encode(), PATIENCE)
            except BaseException:
                process.kill()
                raise
        if process.returncode != 0:
            raise self._failed(process, f"ended with {process.returncode}")

    def _popen(self, cwd: Path, program: str, *options: str | Path, stdin: int) -> subprocess.Popen[bytes]:
        """Start a program of PostgreSQL; a session of its own keeps the terminal's Ctrl-C from it."""
        become: tuple[str, ...] = ()
        if self._user is not None:
            become = ("--reuid", str(self._user.pw_uid), "--regid", str(self._user.pw_gid), "--clear-groups")
            become += ("--inh-caps", "+dac_override", "--ambient-caps", "+dac_override")
        self._printed = (self.logs / "console").stat().st_size
        with (self.logs / "console").open("ab") as console:
            return subprocess.Popen(
                ("setpriv", "--pdeathsig", "KILL", *become, _program(program), *options),
                cwd=cwd,
                env=_environment(),
                stdin=stdin,
                stdout=console,
                stderr=console,
                start_new_session=True,
            )

    def _accepts(self) -> bool:
        """Ask as clients would: the port is open before the data are ready."""
        asked = (_program("pg_isready"), "-q", "-h", LOOPBACK, "-p", str(self.port), "-U", "chappe", "-d", "chappe")
        return subprocess.run(asked, env=_environment(), check=False).returncode == 0

    def _until(self, look: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not look():
            if process.poll() is not None or time.monotonic() > deadline:
                raise self._failed(process, "ended" if process.poll() is not None else f"did not answer within {PATIENCE:g} s")
            time.sleep(_LOOK)

    def _failed(self, process: subprocess.Popen[bytes], what: str) -> RuntimeError:
        """Say what happened to a process, and what it printed."""
        with (self.logs / "console").open("rb") as console:
            console.seek(self._printed)
            said = console.read(_TOLD).decode(errors="replace")
        return RuntimeError(f"{process.args} {what}, and said first: {said}")

    def _end(self, number: signal.Signals) -> None:
        if self._server is None:
            return
        family = self.processes()
        self._server.send_signal(number)
        try:
            self._server.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            print(f"{self._server.args} did not end within {PATIENCE:g} s and was killed", file=sys.stderr, flush=True)
            self._server.kill()
            self._server.wait()
        self._bury(family)
        self._server = None

    def _bury(self, family: list[psutil.Process]) -> None:
        """Kill children whose postmaster is gone: PostgreSQL refuses data to whose shared memory a busy one still holds on."""
        deadline = time.monotonic() + PATIENCE
        while left := [process for process in {*family, *self.processes()} if _lives(process)]:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{left} were killed and did not end within {PATIENCE:g} s")
            for process in left:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            time.sleep(_LOOK)
