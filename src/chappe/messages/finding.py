"""What a look at a server found, for `chappe doctor`."""

from __future__ import annotations

from msgspec import Struct


class Finding(Struct, frozen=True):
    """One thing that was looked at: its `verdict` is *ok*, *warning* or *wrong*, its text says what to do."""

    check: str
    verdict: str
    text: str
