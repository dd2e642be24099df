"""The foreign programs: how each is started, what it can say, and why it may be missing."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..npm import installed

PROGRAMS: Final = Path(__file__).parent / "programs"
MODULES: Final = Path("~/.cache/chappe/amqplib-2").expanduser()
PHP_AMQPLIB: Final = Path("/usr/share/php/PhpAmqpLib/autoload.php")


@dataclass(frozen=True)
class Client:
    """A foreign program; `missing` tells why it cannot run here, None if it can.

    `declares` says that it can declare exchanges and give arguments, `tells` that it knows the properties of a message.
    """

    name: str
    command: tuple[str, ...]
    missing: Callable[[], str | None]
    declares: bool = True
    tells: bool = True

    @property
    def environment(self) -> Mapping[str, str]:
        """Where node finds what npm installed."""
        return {"NODE_PATH": str(MODULES / "node_modules")}


def _python(module: str) -> str | None:
    return None if importlib.util.find_spec(module) else f"the Python package {module} is not installed (make setup)"


def _commands(package: str, *names: str) -> str | None:
    absent = [name for name in names if shutil.which(name) is None]
    return f"not in the path: {', '.join(absent)} ({package}; make tools)" if absent else None


def _php() -> str | None:
    if reason := _commands("Debian's php-cli", "php"):
        return reason
    return None if PHP_AMQPLIB.exists() else f"{PHP_AMQPLIB} is missing (Debian's php-amqplib; make tools)"


def _node() -> str | None:
    return installed(PROGRAMS, MODULES)


CLIENTS: Final[Mapping[str, Client]] = {
    client.name: client
    for client in (
        Client("pika", (sys.executable, "with_pika.py"), lambda: _python("pika")),
        Client("aio-pika", (sys.executable, "with_aio_pika.py"), lambda: _python("aio_pika")),
        Client("amqplib", ("node", "with_amqplib.js"), _node),
        Client("php-amqplib", ("php", "with_php_amqplib.php"), _php),
        Client(
            "amqp-tools",
            (sys.executable, "with_amqp_tools.py"),
            lambda: _commands("Debian's amqp-tools", "amqp-publish", "amqp-consume", "amqp-declare-queue"),
            declares=False,
            tells=False,
        ),
    )
}
