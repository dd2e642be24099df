"""`make demo-bots`: five bots and a person talk over one file; one bot is away for a while, and catches up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec
from rich.console import Console

from bots.hall import bot
from bots.talk import said
from chappe.settings import load

_HERE = Path(__file__).resolve().parent
_PATIENCE = 60.0
FEED = """<?xml version="1.0"?>
<rss version="2.0"><channel><title>Le Mans</title>
<item><guid>abcdef</guid><title>This is a test: Æ¢V→−≠É–È„⋅®…</title><link>http://haum.org</link><author>MicroJoe</author></item>
</channel></rss>
"""


class Hall:
    """The bots as real processes in a folder of their own."""

    def __init__(self, folder: Path, broker: dict[str, str] | None = None) -> None:
        """Prepare; `broker` names where messages wait, if not in a file of the folder."""
        self.folder = folder
        self._broker = broker or {"CHAPPE_BROKER": f"sqlite:///{folder / 'chappe.db'}"}
        self._owns_file = broker is None
        self._person = bot("person")
        self._person.configure(load(environment=self._broker))
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        (folder / "feed.xml").write_text(FEED, encoding="utf-8")

    def start(self, name: str, *arguments: str) -> None:
        """Start a bot; what it prints goes to a file of its name."""
        self._start(name, "-m", f"bots.{name}", *arguments)

    def start_all(self) -> None:
        """Start what carries the messages, where it is not there already, and everybody."""
        if self._owns_file:
            self._start("engine", "-m", "chappe", "engine")
        for name in ("archive", "ping", "status", "agenda", "talk"):
            self.start(name)
        self.start("feed", str(self.folder / "feed.xml"))

    def _start(self, name: str, *command: str) -> None:
        environment = {
            **os.environ,
            **self._broker,
            "PYTHONPATH": os.pathsep.join([str(_HERE.parent), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep),
        }
        with (self.folder / f"{name}.out").open("ab") as out:
            self._processes[name] = subprocess.Popen([sys.executable, *command], stdout=out, stderr=out, cwd=self.folder, env=environment)

    def stop(self, name: str) -> int:
        """End a bot as Ctrl-C does, and return its exit code."""
        process = self._processes.pop(name)
        process.send_signal(signal.SIGINT)
        return process.wait(_PATIENCE)

    def say(self, *words: str) -> None:
        """Say something, as a person does by `python -m bots.talk`."""
        self._person.publish(said(*words))

    def printed(self, name: str) -> list[str]:
        """Return what a bot has printed."""
        return (self.folder / f"{name}.out").read_text(encoding="utf-8").splitlines()

    def archived(self) -> list[dict[str, Any]]:
        """Return what the archive bot has written."""
        return [msgspec.json.decode(line) for file in sorted(self.folder.glob("*.jsonl")) for line in file.read_bytes().splitlines()]

    def heard(self, key: str) -> list[Any]:
        """Return the bodies with a routing key, from the archive bot's files."""
        return [heard["body"] for heard in self.archived() if heard["routing_key"] == key]

    def wait_for(self, condition: Callable[[], Any], what: str) -> None:
        """Wait until a condition holds."""
        deadline = time.monotonic() + _PATIENCE
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(f"waited in vain for {what}; see {self.folder}/*.out")
            time.sleep(0.05)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._person.close()
        for name in sorted(self._processes, key="engine".__eq__):
            self.stop(name)


def converse(hall: Hall, tell: Callable[[str], object]) -> None:
    """Have everybody talk, and raise what does not happen."""
    tell("a person pings")
    hall.say("ping")
    hall.wait_for(lambda: _answers(hall) == 1, "the ping bot to answer")
    tell("somebody opens the space, and asks what is planned")
    hall.say("status", "toggle")
    hall.wait_for(lambda: any(body["is_open"] for body in hall.heard("spacestatus.answer")), "the status bot to answer")
    hall.say("agenda", "add", "title=Un super test", "location=Local du HAUM")
    hall.say("agenda", "list")
    hall.wait_for(lambda: len(hall.heard("agenda.answer")) == 2, "the agenda bot to answer")
    hall.wait_for(lambda: hall.heard("reddit"), "the feed bot to tell of a post")
    tell("the ping bot goes away; it is pinged three times meanwhile, and answers when it is back")
    if (code := hall.stop("ping")) != 0:
        raise RuntimeError(f"the ping bot ended with {code}")
    for _ in range(3):
        hall.say("ping")
    hall.start("ping")
    hall.wait_for(lambda: _answers(hall) == 4, "the ping bot to catch up")


def _answers(hall: Hall) -> int:
    return sum(body["type"] == "answer" for body in hall.heard("ping"))


def main() -> None:
    """Run the demo."""
    console = Console(width=None if sys.stdout.isatty() else 110)
    folder = Path(tempfile.mkdtemp(prefix="chappe-bots-")).resolve()
    with Hall(folder) as hall:
        hall.start_all()
        converse(hall, lambda line: console.print(f"[bold]·[/] {line}"))
        console.print("\nwhat a bot heard that only listens (talk.out):")
        for line in hall.printed("talk"):
            console.print(f"  {line}", highlight=False, markup=False, overflow="ellipsis", no_wrap=True)
        console.print(f"\n[bold green]{len(hall.archived())} messages were said, and the archive bot wrote each down[/] in {folder}")
        console.print("look at next       examples/bots/README.md · ping.py · agenda.py")


if __name__ == "__main__":
    main()
