"""A RabbitMQ node of one's own: in its own folder, on free loopback ports, under its own name, cookie and port mapper.

The server is Debian's, run from where the package keeps it: the one in the path insists on the system's user and folders.
CHAPPE_TEST_RABBITMQ_ROOT names the root folder of another Debian, as `make test-rabbitmq4` makes one: then that one's server is
run. It sees that Debian's /usr as its own, in a private mount namespace, and of the rest of the machine what everybody sees; so
its data are where they were asked for, and its process is the one that was started.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple, Self

from .ports import LOOPBACK, free_ports

SERVER: Final = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
CONTROL: Final = SERVER.with_name("rabbitmqctl")
ROOT: Final = "CHAPPE_TEST_RABBITMQ_ROOT"
PATIENCE: Final = 90.0
_LOOK: Final = 0.05
_TOLD: Final = 4_000
_HELLO: Final = b"AMQP\x00\x00\x09\x01"
_LISTENER: Final = re.compile(r"^\s*listeners\..*:(\d+)\s*$", re.MULTILINE)
_CONNECTION_START: Final = b"\x00\x0a\x00\x0a"  # class 10, method 10: what a server says first


def _other_usr() -> tuple[str, ...]:
    """Return what starts a program with another Debian's /usr in the place of the machine's; nothing, if none is asked for."""
    if not (root := os.environ.get(ROOT)):
        return ()
    return ("unshare", "--mount", "--propagation", "private", "sh", "-c", 'mount --bind "$0/usr" /usr && exec "$@"', root)


def _missing_of(root: Path) -> str | None:
    """Tell why the server of another Debian's root folder cannot be started; none if it can."""
    if not (root / SERVER.relative_to("/")).exists():
        return f"{ROOT} names {root}, where no RabbitMQ is"
    if os.geteuid() != 0:
        return f"only root may start the server of {ROOT}"
    if not all(Path(place).is_symlink() for place in ("/bin", "/lib")):
        return f"{ROOT} needs a machine whose programs and libraries are all in /usr"
    return _not_in_the_path("setpriv", "unshare", "mount")


def _not_in_the_path(*programs: str) -> str | None:
    absent = [program for program in programs if shutil.which(program) is None]
    return f"not in the path: {', '.join(absent)}" if absent else None


class Host(NamedTuple):
    """Where a node runs.

    `enter` is what a program is started there with, `erlang` what the server's Erlang is told besides, and `names` where Erlang
    reads the addresses of its peers.
    """

    node: str
    port: int
    mapper_port: int
    peer_port: int
    address: str = LOOPBACK
    peer_address: str = LOOPBACK
    enter: tuple[str, ...] = ()
    erlang: str = ""
    names: Path | None = None

    @classmethod
    def here(cls) -> Host:
        """Return a name and ports of this machine's loopback that nobody uses."""
        port, mapper_port, peer_port = free_ports(3)
        return cls(f"chappe-{secrets.token_hex(4)}@localhost", port, mapper_port, peer_port)


class RabbitNode:
    """One node, whose data outlive `kill` and `stop`: `start` runs it again, on the same ports.

    `configuration` is added to its rabbitmq.conf. What it prints and logs stays in `logs`. It dies with the thread that
    started it, which should be the main one: a run that was killed leaves no server behind.
    """

    def __init__(self, folder: Path, configuration: str = "", host: Host | None = None) -> None:
        self.folder = folder
        self.logs = folder / "logs"
        self.host = host or Host.here()
        self.port = self.host.port
        self._mapper: subprocess.Popen[bytes] | None = None
        self._server: subprocess.Popen[bytes] | None = None
        self._printed = 0
        self._other_ports = [int(port) for port in _LISTENER.findall(configuration)]
        for path in (folder, self.logs, folder / "data"):
            path.mkdir(parents=True, exist_ok=True)
        (folder / "rabbitmq.conf").write_text(f"listeners.tcp.1 = {self.host.address}:{self.port}\n{configuration}\n")
        (folder / "enabled_plugins").write_text("[].\n")
        (folder / "environment").write_text("")  # else the system's is read
        (self.logs / "console").touch()
        cookie = folder / ".erlang.cookie"
        if not cookie.exists():
            cookie.touch(0o600)
            cookie.write_text(secrets.token_hex())  # Erlang would make one, but one that can be guessed
            cookie.chmod(0o400)

    @staticmethod
    def missing() -> str | None:
        """Tell why no node can be started here; none if one can."""
        if root := os.environ.get(ROOT):
            return _missing_of(Path(root))
        if not SERVER.exists():
            return "RabbitMQ is not installed (Debian's package rabbitmq-server)"
        return _not_in_the_path("epmd", "setpriv")

    @property
    def url(self) -> str:
        """Where clients connect to."""
        return f"amqp://guest:guest@{self.host.address}:{self.port}/"

    @property
    def pid(self) -> int:
        """The server's process."""
        assert self._server is not None, "the node was not started"
        return self._server.pid

    @property
    def runs(self) -> bool:
        """Whether it was started and did not end."""
        return self._server is not None and self._server.poll() is None

    def start(self) -> None:
        """Start, and return when it answers as an AMQP server, at each port that `configuration` adds too."""
        self.launch()
        self.wait()

    def launch(self) -> None:
        """Start, and return at once: a node of a cluster answers when others run too."""
        assert self._server is None, "the node runs"
        self._printed = (self.logs / "console").stat().st_size
        addresses = ",".join(sorted({self.host.address, self.host.peer_address}))
        try:
            # An epmd that Erlang starts by itself stays when the node is gone. Ours serves this node and ends with it.
            self._mapper = self._popen("epmd", "-port", str(self.host.mapper_port), "-address", addresses)
            self._until(lambda: self._connects(self.host.mapper_port), self._mapper)
            self._server = self._popen(str(SERVER))
        except BaseException:
            self.kill()
            raise

    def wait(self) -> None:
        """Return when a node that was launched answers."""
        assert self._server is not None, "the node was not started"
        try:
            self._until(self.answers, self._server)
            for port in self._other_ports:  # they open one after another
                self._until(lambda port=port: self._connects(port), self._server)
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """End it as an administrator would; by force, with a word on stderr, when it takes too long."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a crash would."""
        self._end(signal.SIGKILL)

    def control(self, *command: str) -> str:
        """Return what rabbitmqctl answers; it takes a second or two."""
        ran = subprocess.run(
            (*self.host.enter, *_other_usr(), CONTROL, "--quiet", *command),
            env=self._environment(),
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert ran.returncode == 0, f"rabbitmqctl {' '.join(command)}: {ran.stdout}{ran.stderr}"
        return ran.stdout

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RABBITMQ_", "ERL_"))}
        interface = f"{{{self.host.peer_address.replace('.', ',')}}}"
        if self.host.names is not None:
            kept["ERL_INETRC"] = str(self.host.names)
        return kept | {
            "HOME": str(self.folder),  # where Erlang looks for the cookie
            "ERL_EPMD_PORT": str(self.host.mapper_port),
            "ERL_EPMD_ADDRESS": LOOPBACK,
            "ERL_ZFLAGS": "-start_epmd false",  # an Erlang that starts while ours is being killed would start one that stays
            "RUNNING_UNDER_SYSTEMD": "true",  # the script then becomes the server, instead of a parent that stands in for it
            "RABBITMQ_NODENAME": self.host.node,
            "RABBITMQ_DIST_PORT": str(self.host.peer_port),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"-kernel inet_dist_use_interface {interface} {self.host.erlang}",
            "RABBITMQ_CONF_ENV_FILE": str(self.folder / "environment"),
            "RABBITMQ_CONFIG_FILE": str(self.folder / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(self.folder / "data"),
            "RABBITMQ_LOG_BASE": str(self.logs),
        }

    def _popen(self, *command: str) -> subprocess.Popen[bytes]:
        """Start a process of the node; a session of its own keeps the terminal's Ctrl-C from it."""
        with (self.logs / "console").open("ab") as console:
            return subprocess.Popen(
                ("setpriv", "--pdeathsig", "KILL", *self.host.enter, *_other_usr(), *command),
                cwd=self.folder,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,
            )

    def answers(self, patience: float = PATIENCE) -> bool:
        """Tell whether it greets a client as an AMQP server does."""
        try:
            with socket.create_connection((self.host.address, self.port), timeout=patience) as connected:
                connected.sendall(_HELLO)
                frame = b""
                while len(frame) < 11 and (more := connected.recv(4096)):
                    frame += more
        except OSError:
            return False
        return frame[:1] == b"\x01" and frame[7:11] == _CONNECTION_START

    def _connects(self, port: int) -> bool:
        with contextlib.suppress(OSError), socket.create_connection((self.host.address, port), timeout=PATIENCE):
            return True
        return False

    def _until(self, look: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not look():
            if process.poll() is not None or time.monotonic() > deadline:
                what = "ended" if process.poll() is not None else f"did not answer within {PATIENCE:g} s"
                raise RuntimeError(f"{process.args} {what}, and said first: {self._console()[:_TOLD]}")
            time.sleep(_LOOK)

    def _console(self) -> str:
        """Return what was printed since the last start."""
        with (self.logs / "console").open("rb") as console:
            console.seek(self._printed)
            return console.read().decode(errors="replace")

    def _end(self, number: signal.Signals) -> None:
        for process, patience in ((self._server, PATIENCE), (self._mapper, 5.0)):
            if process is None:
                continue
            process.send_signal(number)
            try:
                process.wait(patience)
            except subprocess.TimeoutExpired:
                print(f"{process.args} did not end within {patience:g} s and was killed", file=sys.stderr, flush=True)
                process.kill()
                process.wait()
        self._server = self._mapper = None
