"""Rolling deploys under load: `python -m tests.faults.deploys --deploys 20 --broken 5 --rate 67`.

Each release adds a field and a class, which are posted as soon as the release is in place; the broken ones are to be refused.
Prints one line of JSON: every posted command is handled, none is refused on the way, and there is no dead letter.
"""

from __future__ import annotations

import argparse
import collections
import http.client
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from ..waiting import until

APPLICATION = """
import asyncio, os, pathlib
from chappe import App, Command

app = App("shop")
here = pathlib.Path(__file__).parent


class Order(Command, queue="orders"):
    number: int
{fields}

@app.handles(Order)
async def order(command: Order) -> None:
    await asyncio.sleep(0.02)
    note(command.number)


def note(number):
    handle = os.open(here / "handled", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(handle, f"{{number}}\\n".encode())
    os.close(handle)

{classes}
"""
CLASS = """
class Added{version}(Command, queue="added"):
    number: int


@app.handles(Added{version})
def added{version}(command: Added{version}) -> None:
    note(command.number)
"""
TOML = '[pools.mill]\nprocesses = 2\nconcurrency = 20\nqueues = ["{queues}"]\n'
THREADS = 4


def application(version: int) -> str:
    """Write the source of a release."""
    fields = "".join(f"    field{n}: int = 0\n" for n in range(1, version + 1))
    return APPLICATION.format(fields=fields, classes="".join(CLASS.format(version=n) for n in range(1, version + 1)))


BROKEN = (
    lambda folder, good: (folder / "shop.py").write_text(good + "\nthis is no python\n"),
    lambda folder, good: (folder / "shop.py").write_text(good + "\nimport a_package_that_is_not_there\n"),
    lambda folder, good: (folder / "shop.py").write_text(good + "\n@app.handles(Order)\ndef unmet(o: Order, c: dict[str, bytes]) -> None: ...\n"),
    lambda folder, good: (folder / "chappe.toml").write_text('[pools.mill]\nprocesses = "many"\n'),
    lambda folder, good: (folder / "chappe.toml").write_text(TOML.format(queues="nowhere")),
)  # fmt: skip


class Shop:
    """`chappe run` in a folder, and those who post to it."""

    def __init__(self, folder: Path, rate: float) -> None:
        self.folder = folder
        self.version = 0  # that is in place
        self.posted: list[int] = []
        self.refused: collections.Counter[str] = collections.Counter()
        self._numbers = itertools.count()
        self._pause = THREADS / rate
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._post, args=(kept,)) for kept in (True, False) * (THREADS // 2)]
        (folder / "shop.py").write_text(application(0))
        (folder / "chappe.toml").write_text(TOML.format(queues="*"))
        environment = {k: v for k, v in os.environ.items() if not k.startswith("CHAPPE_") and k not in ("PORT", "LOG_LEVEL")}
        self.environment = environment | {"CHAPPE_APP": "shop:app", "CHAPPE_PORT": "0", "CHAPPE_LOG_FORMAT": "console", "NO_COLOR": "1"}
        with (folder / "stderr").open("ab") as errors:
            command = [sys.executable, "-m", "chappe", "run", "--no-scheduler"]
            self.process = subprocess.Popen(command, cwd=folder, env=self.environment, stdout=errors, stderr=errors)
        until(lambda: "processes are ready" in self.said() and self._ports(), "chappe run to be ready", 120)
        self.port = self._ports()[-1]
        for thread in self._threads:
            thread.start()

    def _ports(self) -> list[int]:
        return [int(port) for port in re.findall(r"gateway listens on http://127.0.0.1:(\d+)", self.said())]

    def said(self) -> str:
        """Read what all processes said."""
        return (self.folder / "stderr").read_text()

    def deploy(self, version: int) -> None:
        """Put a good release in place."""
        before = self.said().count("run the new release")
        (self.folder / "shop.py").write_text(application(version))
        self.process.send_signal(signal.SIGHUP)
        until(lambda: self.said().count("run the new release") > before, f"release {version} to be in place", 120)
        self.version = version

    def deploy_broken(self, kind: int) -> None:
        """Try a release that cannot run, and put the files back."""
        before = self.said().count("is refused")
        good = application(self.version)
        BROKEN[kind % len(BROKEN)](self.folder, good)
        self.process.send_signal(signal.SIGHUP)
        until(lambda: self.said().count("is refused") > before, "the broken release to be refused", 120)
        (self.folder / "shop.py").write_text(good)
        (self.folder / "chappe.toml").write_text(TOML.format(queues="*"))

    def close(self) -> dict[str, Any]:
        """Stop posting, wait for what was posted, end, and say how it went."""
        self._ended.set()
        for thread in self._threads:
            thread.join()
        wanted = set(self.posted)
        try:
            until(lambda: wanted <= set(self.handled()) or self.letters(), "all that was posted to be handled", 60)
        finally:
            handled, letters = self.handled(), self.letters()
            self.process.terminate()
            self.process.wait(60)
        return {
            "posted": len(self.posted), "refused": dict(self.refused), "lost": len(wanted - set(handled)),
            "repeated": len(handled) - len(set(handled)), "dead": len(letters),
        }  # fmt: skip

    def handled(self) -> list[int]:
        """Return the numbers of what was handled."""
        path = self.folder / "handled"
        return [int(line) for line in path.read_text().splitlines()] if path.exists() else []

    def letters(self) -> list[Any]:
        """Return the dead letters."""
        command = [sys.executable, "-m", "chappe", "dead", "list", "--json"]
        return json.loads(subprocess.run(command, cwd=self.folder, env=self.environment, capture_output=True, check=True).stdout)

    def _post(self, kept: bool) -> None:
        """Post at a steady rate, over a connection that is kept or over a new one each time."""
        connection: http.client.HTTPConnection | None = None
        while not self._ended.wait(self._pause):
            number, version = next(self._numbers), self.version
            name, body = "order", {"number": number}
            if version and number % 3 == 0:
                name = f"added{version}"
            elif version and number % 3 == 1:
                body[f"field{version}"] = 1
            connection = connection or http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
            try:
                connection.request("POST", f"/commands/{name}", json.dumps(body), {"Content-Type": "application/json"})
                answer = connection.getresponse()
                text = answer.read()
                if answer.status == 202:
                    self.posted.append(number)
                else:
                    self.refused[f"{answer.status} {text[:200].decode()}"] += 1
                ending = answer.will_close
            except (OSError, http.client.HTTPException) as error:
                self.refused[repr(error)] += 1
                ending = True
            if ending or not kept:
                connection.close()
                connection = None
        if connection is not None:
            connection.close()


def run(folder: Path, deploys: int, broken: int, rate: float) -> dict[str, Any]:
    """Deploy so many times, of them so many broken releases, spread evenly; return what became of the commands."""
    shop = Shop(folder, rate)
    started = time.monotonic()
    version = failed = 0
    try:
        for number in range(1, deploys + 1):
            if number * broken // deploys > failed:
                shop.deploy_broken(failed)
                failed += 1
            else:
                version += 1
                shop.deploy(version)
    finally:
        result = shop.close()
    return {"deploys": version, "broken": failed, "seconds": round(time.monotonic() - started, 1), **result}


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--deploys", type=int, default=20)
    parser.add_argument("--broken", type=int, default=5)
    parser.add_argument("--rate", type=float, default=67.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="chappe-deploys-") as folder:
        result = run(Path(folder), options.deploys, options.broken, options.rate)
    print(json.dumps(result))
    if result["refused"] or result["lost"] or result["dead"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
