"""The end of a forked child: what it says on stderr commands no terminal."""

import os

import pytest

from chappe.bus.loop import end_copy


class _Ended(BaseException):
    pass


def test_the_name_of_a_message_commands_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    written = list[bytes]()

    def end(code: int) -> None:
        raise _Ended(code)

    monkeypatch.setattr(os, "write", lambda _, text: written.append(text))
    monkeypatch.setattr(os, "_exit", end)
    with pytest.raises(_Ended, match="70"):
        end_copy("the handler of a\x1b[2J\u202e\x9b b\ud800\nforged")
    assert written[0].startswith(rb"the handler of a\x1b[2J\u202e\x9b b\ud800 called os.fork()")
    assert written[0].count(b"\n") == 1
