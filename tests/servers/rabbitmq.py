"""A RabbitMQ node of one's own: in its own folder, on free loopback ports, under its own name, cookie and port mapper.

The server is Debian's, run from where the package keeps it: the one in the path insists on the system's user and folders.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Self

from .ports import LOOPBACK, free_ports

SERVER: Final = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
CONTROL: Final = SERVER.with_name("rabbitmqctl")
PATIENCE: Final = 90.0
_LOOK: Final = 0.05
_TOLD: Final = 4_000
_HELLO: Final = b"AMQP\x00\x00\x09\x01"
_CONNECTION_START: Final = b"\x00\x0a\x00\x0a"  # class 10, method 10: what a server says first


class RabbitNode:
    """One node, whose data outlive `kill` and `stop`: `start` runs it again, on the same ports.

    `configuration` is added to its rabbitmq.conf. What it prints and logs stays in `logs`. It dies with the thread that
    started it, which should be the main one: a run that was killed leaves no server behind.
    """

    def __init__(self, folder: Path, configuration: str = "") -> None:
        self.folder = folder
        self.logs = folder / "logs"
        self.port, self._mapper_port, self._peer_port = free_ports(3)
        self._name = f"noria-{secrets.token_hex(4)}@localhost"
        self._mapper: subprocess.Popen[bytes] | None = None
        self._server: subprocess.Popen[bytes] | None = None
        self._printed = 0
        for path in (folder, self.logs, folder / "data"):
            path.mkdir(parents=True, exist_ok=True)
        (folder / "rabbitmq.conf").write_text(f"listeners.tcp.1 = {LOOPBACK}:{self.port}\n{configuration}\n")
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
        if not SERVER.exists():
            return "RabbitMQ is not installed (Debian's package rabbitmq-server)"
        absent = [program for program in ("epmd", "setpriv") if shutil.which(program) is None]
        return f"not in the path: {', '.join(absent)}" if absent else None

    @property
    def url(self) -> str:
        """Where clients connect to."""
        return f"amqp://guest:guest@{LOOPBACK}:{self.port}/"

    @property
    def pid(self) -> int:
        """The server's process."""
        assert self._server is not None, "the node was not started"
        return self._server.pid

    def start(self) -> None:
        """Start, and return when it answers as an AMQP server."""
        assert self._server is None, "the node runs"
        self._printed = (self.logs / "console").stat().st_size
        try:
            # An epmd that Erlang starts by itself stays when the node is gone. Ours serves this node and ends with it.
            self._mapper = self._popen("epmd", "-port", str(self._mapper_port), "-address", LOOPBACK)
            self._until(lambda: self._answers(self._mapper_port, b""), self._mapper)
            self._server = self._popen(str(SERVER))
            self._until(lambda: self._answers(self.port, _HELLO), self._server)
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
        """Give what rabbitmqctl answers; it takes a second or two."""
        ran = subprocess.run(
            (CONTROL, "--quiet", *command),
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
        return kept | {
            "HOME": str(self.folder),  # where Erlang looks for the cookie
            "ERL_EPMD_PORT": str(self._mapper_port),
            "ERL_EPMD_ADDRESS": LOOPBACK,
            "RUNNING_UNDER_SYSTEMD": "true",  # the script then becomes the server, instead of a parent that stands in for it
            "RABBITMQ_NODENAME": self._name,
            "RABBITMQ_DIST_PORT": str(self._peer_port),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
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
                ("setpriv", "--pdeathsig", "KILL", *command),
                cwd=self.folder,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,
            )

    def _answers(self, port: int, hello: bytes) -> bool:
        """Connect; and if there is something to say, look whether the answer is that of an AMQP server."""
        try:
            with socket.create_connection((LOOPBACK, port), timeout=PATIENCE) as connected:
                if not hello:
                    return True
                connected.sendall(hello)
                frame = b""
                while len(frame) < 11 and (more := connected.recv(4096)):
                    frame += more
        except OSError:
            return False
        return frame[:1] == b"\x01" and frame[7:11] == _CONNECTION_START

    def _until(self, look: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not look():
            if process.poll() is not None or time.monotonic() > deadline:
                what = "ended" if process.poll() is not None else f"did not answer within {PATIENCE:g} s"
                raise RuntimeError(f"{process.args} {what}, and said first: {self._console()[:_TOLD]}")
            time.sleep(_LOOK)

    def _console(self) -> str:
        """Give what was printed since the last start."""
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
