"""`chappe logs` prints the last lines of a pool's log, and follows it through rotations."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import pytest

from chappe.cli.tailing import tail

from .conftest import Chappe


def test_w7_the_last_lines_of_a_pool_are_printed(chappe: Chappe, tmp_path: Path) -> None:
    (tmp_path / "chappe.toml").write_text('[pools.push]\nlog = "push.log"\n[pools.rest]\n')
    assert "push.log does not exist yet: no process of push has started" in chappe("logs", "push", code=1).err
    (tmp_path / "push.log").write_bytes(b"".join(b"line %d\n" % number for number in range(100)) + b"\x1b[2Jnasty\n")
    assert chappe("logs", "push", "-n", "2").out == "line 99\n\\x1b[2Jnasty\n"
    assert 'set log = "rest.log" in chappe.toml' in chappe("logs", "rest", code=78).err
    assert 'no pool is called "nil"; the pools of chappe.toml are: push, rest' in chappe("logs", "nil", code=1).err


@pytest.mark.parametrize("how", ["appended", "moved", "emptied"])
def test_w7_what_is_written_later_is_followed_also_into_the_next_file(tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "log"
    file.write_text("one\ntwo\nhal")
    lines = tail(file, 1, follow=True)
    assert next(lines) == b"hal"
    left = ["more\n", "last\n"]

    def write(_: float) -> None:
        if how == "moved":
            file.rename(tmp_path / "log.1")
        elif how == "emptied" and len(left) == 2:
            file.write_text("")
        with file.open("a") as log:
            log.write(left.pop(0))

    monkeypatch.setattr("chappe.cli.tailing.time", SimpleNamespace(sleep=write))
    assert list(islice(lines, 2)) == [b"more", b"last"]
