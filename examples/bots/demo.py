"""`make demo-bots`: five bots and a person talk over one file; one bot is away for a while, and catches up."""

from __future__ import annotations

import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console

from bots.hall import bot
from bots.talk import said
from chappe.settings import load
from processes import Processes

FEED = """<?xml version="1.0"?>
<rss version="2.0"><channel><title>Le Mans</title>
<item><guid>abcdef</guid><title>This is a test: Æ¢V→−≠É–È„⋅®…</title><link>http://haum.org</link><author>MicroJoe</author></item>
</channel></rss>
"""


class Hall(Processes):
    """The bots, and what carries their messages where it is not there already."""

    last = ("engine",)
    ends_by = signal.SIGINT
    suffix = "out"

    def __init__(self, folder: Path, broker: dict[str, str] | None = None) -> None:
        """Prepare; `broker` names where messages wait, if not in a file of the folder."""
        super().__init__(folder, broker)
        self._owns_file = broker is None
        self._person = bot("person")
        self._person.configure(load(environment=self.urls))
        (folder / "feed.xml").write_text(FEED, encoding="utf-8")

    def start_bot(self, name: str, *arguments: str) -> None:
        """Start a bot."""
        self.start(name, "-m", f"bots.{name}", *arguments)

    def start_all(self) -> None:
        """Start everything."""
        if self._owns_file:
            self.start("engine", "-m", "chappe", "engine")
        for name in ("archive", "ping", "status", "agenda", "talk"):
            self.start_bot(name)
        self.start_bot("feed", str(self.folder / "feed.xml"))

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

    def followers(self) -> set[str]:
        """Return whose positions are kept."""

        async def kept() -> set[str]:
            return {*await (await self._person.connection()).store.followers()}

        return self._person.wait_for(kept())

    def close(self) -> None:
        self._person.close()
        super().close()


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
    hall.start_bot("ping")
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
