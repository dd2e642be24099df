"""A declaration that fails on import is told with the file and line where it stands."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from chappe.cli.loading import find_app
from chappe.errors import ChappeError, DefinitionError
from chappe.settings import Settings

HEAD = "from chappe import App, Command, Event, cron, every\napp = App('shop')\n"


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("class A(Command, queue='q', retyr=3):\n    n: int\n", 3),
        ("class A(Command, queue='q', key='{m}'):\n    n: int\n", 3),
        ("class A(Command, queue='q'):\n    n: int\n\n@app.on(A)\ndef a(c: A) -> None: ...\n", 6),
        ("class A(Command, queue='q'):\n    n: int\n\napp.schedule(cron('99 * * * *'), A(n=1))\n", 6),
        ("class A(Command, queue='q'):\n    n: int\n\nfor _ in range(2):\n    app.schedule(every(1), A(n=1))\n", 7),
        ("class A(Command, queue='q'):\n    n: int\n\nA(n='x')\n", 6),
        ("def declare() -> None:\n    @app.handles()\n    def a(c) -> None: ...\n\ndeclare()\n", 4),
    ],
)
def test_the_place_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, line: int) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "misdeclared.py").write_text(HEAD + source)
    sys.modules.pop("misdeclared", None)
    with pytest.raises(ChappeError, match=rf"misdeclared\.py:{line}\b"):
        find_app(Settings(app="misdeclared:app"))


def test_the_place_is_that_in_the_module_that_declares_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "outer_module.py").write_text("import inner_module\napp = inner_module.app\n")
    (tmp_path / "inner_module.py").write_text(HEAD + "class A(Command, queu='q'): ...\n")
    for name in ("outer_module", "inner_module"):
        sys.modules.pop(name, None)
    with pytest.raises(DefinitionError, match=r"inner_module\.py:3: .*queue"):
        find_app(Settings(app="outer_module:app"))
