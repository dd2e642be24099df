"""`chappe pause`, `resume`, `scale`, `cancel` and `audit` where no supervisor runs: what is wanted waits for one."""

from __future__ import annotations

import getpass

from .conftest import Chappe


def test_what_is_wanted_is_remembered_with_who_said_it(chappe: Chappe) -> None:
    chappe("send", "order", "customer=Ada")
    chappe("pause", "orders")
    chappe("scale", "default=2..4")
    chappe("weight", "Ada=Eve=3", "Bob=")
    assert "a weight is a number" in chappe("weight", "Ada=much", code=1).err
    chappe("resume", "orders")
    rows = chappe("audit", "--json").json
    assert [(row["what"], row["value"]) for row in rows] == [
        ("queue:orders", "paused"), ("pool:default", "2..4"), ("tenant:Ada=Eve", "3.0"), ("tenant:Bob", "as declared"),
        ("queue:orders", "as declared"),
    ]  # fmt: skip
    assert all(row["who"].startswith(f"{getpass.getuser()}@") for row in rows)


def test_a_message_that_waits_is_cancelled_by_its_id(chappe: Chappe) -> None:
    sent = chappe("send", "order", "customer=Ada").out.strip().split()[0]
    assert chappe("cancel", sent).out == f"{sent} was ready\n"
    assert chappe("inspect", "orders", "--json").json == []
    assert "is neither waiting nor running" in chappe("cancel", sent, code=1).err
