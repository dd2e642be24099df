"""What the processes of this host write and do, over HTTP."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from chappe import redaction
from chappe.settings import Pool

from ..shop import Open, make, opened


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Open]:
    pools = {"till": Pool(log=str(tmp_path / "till.log")), "mute": Pool(), "odd": Pool(log="/dev/null")}
    async with opened(tmp_path, make=make, pools=pools) as shop:
        yield shop


async def told(shop: Open, **query: Any) -> dict[str, Any]:
    answer = await shop.client.get("/api/pools/till/logs", params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_w7_the_last_lines_of_a_log_are_told_and_then_what_is_added(shop: Open) -> None:
    log = shop.folder / "till.log"
    log.write_text("".join(f"line {n}\n" for n in range(300)) + "half")
    first = await told(shop, limit=2)
    assert (first["file"], first["lines"], first["is_new"]) == (str(log), ["line 298", "line 299"], False)
    assert (await told(shop, cursor=first["cursor"]))["lines"] == []
    with log.open("a") as more:
        more.write(" a line\nnext\n")
    then = await told(shop, cursor=first["cursor"])
    assert then["lines"] == ["half a line", "next"]
    assert (await told(shop, cursor=then["cursor"]))["lines"] == []


@pytest.mark.parametrize("how", ["moved", "emptied"])
async def test_what_is_written_to_a_file_that_takes_the_place_of_another_is_told_from_its_beginning(shop: Open, how: str) -> None:
    log = shop.folder / "till.log"
    log.write_text("what came before\n" * 10)
    cursor = (await told(shop))["cursor"]
    if how == "moved":
        log.rename(shop.folder / "till.log.1")
    log.write_text("what comes now\n")
    found = await told(shop, cursor=cursor)
    assert (found["lines"], found["is_new"]) == (["what comes now"], True)


async def test_what_a_log_holds_cannot_deceive_who_reads_it(shop: Open) -> None:
    (shop.folder / "till.log").write_bytes(b"\x1b[31mred\x07\n" + "\u202eevil\u2066 \x9b1m \u200b".encode() + b"\nnot \xff UTF-8\n")
    assert (await told(shop))["lines"] == ["\\x1b[31mred\\x07", "\\u202eevil\\u2066 \\x9b1m \\u200b", "not \\xff UTF-8"]


async def test_no_secret_that_is_known_here_is_shown_of_a_log(shop: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redaction, "_known", set[str]())  # it is forgotten again
    redaction.remember({"broker": "postgresql://till:open-sesame@localhost/shop"})
    (shop.folder / "till.log").write_text("before\ncannot reach till:open-sesame@localhost\nafter\n")
    assert (await told(shop))["lines"] == ["before", "cannot reach till:***@localhost", "after"]


async def test_no_answer_holds_more_of_a_log_than_it_may(shop: Open) -> None:
    log = shop.folder / "till.log"
    log.write_bytes(b"x" * 400_000 + b"\n" + b"y\n" * 150_000)
    assert (await told(shop, limit=2000))["lines"] == ["y"] * 2000
    found, lines = await told(shop, cursor=f"{log.stat().st_ino}-0"), 0
    assert len(found["lines"][0]) == 4000
    while found["lines"]:
        lines += len(found["lines"])
        found = await told(shop, cursor=found["cursor"])
    assert lines > 150_000


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/api/pools/nobody/logs", 404, "no pool is called"),
        ("/api/pools/mute/logs", 404, 'set log = "mute.log"'),
        ("/api/pools/till/logs", 404, "does not exist on this host"),
        ("/api/pools/odd/logs", 503, "it is no regular file"),
        ("/api/pools/till/logs?cursor=x", 422, "send it as an earlier answer had it"),
        ("/api/pools/till/logs?limit=5000", 422, "<= 2000"),
    ],
)
async def test_what_is_no_log_says_what_to_do(shop: Open, path: str, status: int, words: str) -> None:
    answer = await shop.client.get(path)
    assert answer.status_code == status
    assert words in answer.json()["detail"] + answer.text.replace("\\", "")


async def test_a_process_that_is_no_worker_of_this_host_is_not_signalled(shop: Open) -> None:
    for pid in (1, os.getpid(), 2**31):
        answer = await shop.client.post(f"/api/processes/{pid}/stacks")
        assert (answer.status_code, "no worker of this host" in answer.text) == (404, True)
    await asyncio.sleep(0)
