"""The one place that names the engines: what is not installed or cannot be read is an error that says what to do."""

from __future__ import annotations

import sys

import pytest

from chappe import engines
from chappe.errors import InvalidSettings
from chappe.settings import Settings


def test_postgresql_without_its_client_is_an_error_that_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(InvalidSettings, match=r'pip install "chappe\[postgres\]"'):
        engines.connected(Settings(broker="postgresql://h/d"), {})


@pytest.mark.parametrize("url", ["postgresql://u:geheim@h:x/d?nothing=geheim", "postgresql://u:geheim@[h/d", "postgresql://u:%zz@h/geheim"])
def test_a_url_that_its_client_cannot_read_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(InvalidSettings, match="cannot read this URL") as refused:
        engines.connected(Settings(broker=url), {})
    assert "geheim" not in str(refused.value)
