"""The type checker tells a user's mistakes apart from what is right: this file's lines are judged by basedpyright."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

USER_CODE = """
from collections.abc import AsyncIterator, Generator
from typing import Any, Literal, assert_type
from chappe import App, Command, Context, Event, Rate, Receipt, Retry, replace

app = App("typed")

class Good(Command, queue="mail", key="{number}", retry=Retry(3), rate=Rate("10/s"), timeout=5.0, aliases=("old.name",)):
    number: int
    what: frozenset[Literal["a", "b"]] = frozenset()

    def merge(self, newer: "Good") -> "Good":
        return replace(self, what=self.what | newer.what)

class Done(Event):
    number: int

@app.task(queue="sums")
def add(a: int, b: int = 2) -> int:
    return a + b

@app.task
async def fetch(url: str) -> list[str]:
    return [url]

@app.task(retry=Retry(3))
def emit(n: int) -> Generator[Done, None, str]:
    yield Done(number=n)
    return "x"

@app.task
async def stream(n: int) -> AsyncIterator[Done]:
    yield Done(number=n)

assert_type(add.send(1, b=2), Receipt)
assert_type(add.ask(1), int)
assert_type(add(1), int)
assert_type(fetch.ask("a"), list[str])
assert_type(emit.ask(1), str)
assert_type(stream.ask(1), None)
add.send("one")  # wrong
fetch.send()  # wrong
emit.send(m=1)  # wrong

async def main(context: Context) -> None:
    assert_type(await fetch("a"), list[str])
    assert_type(await fetch.aask("a"), list[str])
    assert_type(await fetch.asend("a"), Receipt)
    assert_type(await app.aask(good, returns=int), int)
    await context.progress(1, 2)
    context.send(good, delay=2.0)
    context.send("text")  # wrong
    await app.aask(good, timout=3.0)  # wrong

class Now(Command, inline=True):
    number: int

good = Good(number=1)
assert_type(app.ask(good, returns=list[int]), list[int])
assert_type(app.ask(good), Any)
assert_type(good.number, int)
assert_type(app.send(good), Receipt)
assert_type(app.send([good, good]), list[Receipt])
assert_type(app.publish(Done(number=1)), Receipt)

class Misspelt(Command, queu="mail"):  # wrong
    number: int

Good(number="one")  # wrong
Good()  # wrong
good.number = 2  # wrong
app.publish(good)  # wrong
app.send("text")  # wrong
"""


def test_a_type_checker_refuses_each_wrong_line_and_no_other(tmp_path: Path) -> None:
    program = tmp_path / "user.py"
    program.write_text(USER_CODE)
    (tmp_path / "pyrightconfig.json").write_text(json.dumps({"typeCheckingMode": "standard", "reportUnusedCallResult": False}))
    command = [sys.executable, "-m", "basedpyright", "--outputjson", "--pythonpath", sys.executable, "-p", str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    found = json.loads(run.stdout)["generalDiagnostics"]
    refused = {item["range"]["start"]["line"] for item in found if item["severity"] == "error"}
    wrong = {number for number, line in enumerate(USER_CODE.splitlines()) if line.endswith("# wrong")}
    assert refused == wrong, [(item["range"]["start"]["line"], item["message"]) for item in found]
