"""The type checker tells a user's mistakes apart from what is right: this file's lines are judged by basedpyright."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

USER_CODE = """
from typing import Literal, assert_type
from chappe import App, Command, Event, Rate, Receipt, Retry, replace

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

good = Good(number=1)
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
