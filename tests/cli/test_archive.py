"""`chappe archive`."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from .conftest import Chappe, environment


def test_m4_archived_events_are_listed_by_pattern_and_position(chappe: Chappe) -> None:
    for customer in ("Ada", "Bob", "Æ→"):
        chappe("publish", "sold", f"customer={customer}")
    listed = chappe("archive", "list", "--json").json
    assert [(row["seq"], row["type"], row["body"]["customer"]) for row in listed] == [
        (1, "sold", "Ada"),
        (2, "sold", "Bob"),
        (3, "sold", "Æ→"),
    ]
    assert [row["seq"] for row in chappe("archive", "list", "sold", "--since", "1", "--json").json] == [2, 3]
    assert chappe("archive", "list", "lost.*", "--json").json == []
    shown = chappe("archive", "list", "-n", "2")
    assert "Bob" in shown.out
    assert "--since 2" in shown.err
    assert "is no seq" in chappe("archive", "list", "--since", "yesterday", code=2).err


def test_h15_a_follower_prints_lines_and_ends_cleanly_by_ctrl_c_and_its_name_is_shown(chappe: Chappe, tmp_path: Path) -> None:
    chappe("publish", "sold", "customer=Ada")
    command = [sys.executable, "-m", "chappe", "archive", "follow", "--name", "screen", "--since", "0"]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment(PYTHONUNBUFFERED="1"), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert json.loads(process.stdout.readline())["body"] == {"customer": "Ada"}
        chappe("publish", "sold", "customer=Bob")
        assert json.loads(process.stdout.readline())["body"] == {"customer": "Bob"}
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        assert process.stderr.read() == b""
    chappe("publish", "sold", "customer=Eve")
    (row,) = chappe("archive", "followers", "--json").json
    assert row["name"] == "chappe:screen"
    assert row["position"] + row["behind"] == 3


def test_h13_events_are_replayed_to_one_subscriber(chappe: Chappe, worked: Callable[[], None]) -> None:
    for customer in ("Ada", "Bob"):
        chappe("publish", "sold", f"customer={customer}")
    worked()
    assert chappe("archive", "replay", "shop.on.sold", "--since", "1h").out == "2\n"
    assert [row["ready"] for row in chappe("queues", "--json").json if row["name"] == "shop.on.sold"] == [2]
    refused = chappe("archive", "replay", "nobody", "--since", "1h", code=None)
    assert refused.code != 0
    assert "declared are:" in refused.err
