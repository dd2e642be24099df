"""One row of the table: a wrong input, how it is sent, and the answer that is promised."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple


class Answer(NamedTuple):
    """What came back: a status, an exit code or the name of an error, and all the text there was."""

    code: str
    text: str


class Row(NamedTuple):
    """A wrong input and its answer; `…` in what it says stands for anything, and `then` is what else must hold."""

    id: str
    wrong: str
    sent: str
    answer: str
    says: str
    send: Callable[[Any], Answer]
    then: str = ""
    passes: int = 0  # messages of its own that come and go while it is sent


def fits(says: str, text: str) -> bool:
    """Tell whether a text has what a row promises, in one piece but for each `…`."""
    pattern = ".*?".join(re.escape(part) for part in says.split("…"))
    return re.search(pattern, text, re.DOTALL) is not None
