"""What the demos have in common: options that most of them take, servers behind them, and being left running."""

from __future__ import annotations

import argparse
import contextlib
import sys
import threading
from collections.abc import Generator, Mapping
from pathlib import Path

from rich.console import Console


def options_of(description: str | None, *brokers: str) -> argparse.ArgumentParser:
    """Return the options of a demo that may work in a folder of one's choice, with messages at one of some brokers."""
    options = argparse.ArgumentParser(description=description)
    options.add_argument("--keep", action="store_true", help="leave everything running until Ctrl-C")
    options.add_argument("--folder", type=Path, default=None, help="where to work (default: a new temporary folder)")
    options.add_argument("--broker", choices=brokers, default=brokers[0], help="where messages wait; servers are started for it")
    return options


@contextlib.contextmanager
def servers(broker: str, folder: Path, console: Console) -> Generator[Mapping[str, str]]:
    """Start servers of one's own, as the tests do, and give what to set; nothing for a file."""
    if broker == "file":
        yield {}
        return
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from tests.servers.postgres import PostgresNode
    from tests.servers.rabbitmq import RabbitNode

    if missing := (broker == "rabbitmq" and RabbitNode.missing()) or PostgresNode.missing():
        sys.exit(missing)
    console.print("starting PostgreSQL …" if broker == "postgres" else "starting RabbitMQ and PostgreSQL …")
    state = {"CHAPPE_STATE_DIR": str(folder / "state")}
    with contextlib.ExitStack() as stack:
        postgres = stack.enter_context(PostgresNode(folder / "postgres"))
        if broker == "postgres":
            yield {"CHAPPE_BROKER": postgres.url, **state}
        else:
            rabbit = stack.enter_context(RabbitNode(folder / "rabbitmq"))
            yield {"CHAPPE_BROKER": rabbit.url, "CHAPPE_STORE": postgres.url, **state}


def leave_running(console: Console) -> None:
    """Wait for Ctrl-C."""
    with contextlib.suppress(KeyboardInterrupt):
        threading.Event().wait()
    console.print("ending …")
