"""The bots as processes: each is a few lines, they hear each other, and nobody who was away misses anything."""

import ast
from pathlib import Path

import pytest

from bots import demo
from bots.demo import Hall, converse
from tests.servers.postgres import PostgresNode
from tests.servers.rabbitmq import RabbitNode
from tests.servers.shared import Database, Vhost

HERE = Path(demo.__file__).parent
BOTS = ("agenda", "archive", "feed", "ping", "status")


@pytest.mark.parametrize("bot", BOTS)
def test_h2_a_bot_is_at_most_ten_lines(bot: str) -> None:
    tree = ast.parse((HERE / f"{bot}.py").read_text())
    lines = {node.lineno for node in ast.walk(tree) if isinstance(node, ast.stmt) and not isinstance(node, ast.Import | ast.ImportFrom)}
    assert len(lines) - 1 <= 10, "without its first sentence and its imports"


def test_h10_five_bots_and_a_person_talk_over_one_file_and_one_that_was_away_catches_up(tmp_path: Path) -> None:
    with Hall(tmp_path) as hall:
        hall.start_all()
        converse(hall, lambda _: None)
        assert hall.heard("reddit")[0]["title"] == "This is a test: Æ¢V→−≠É–È„⋅®…"
        seqs = [heard["seq"] for heard in hall.archived()]
        assert seqs == list(range(1, len(seqs) + 1)), "the archive bot wrote each message down, once"
        for name in (*BOTS, "talk"):
            assert hall.stop(name) == 0, f"{name} ends cleanly by Ctrl-C"
            assert "Traceback" not in "".join(hall.printed(name))


@pytest.mark.proof
def test_h1_the_bots_talk_over_rabbitmq_too(tmp_path: Path, rabbit: Vhost, postgres: Database) -> None:
    if missing := RabbitNode.missing() or PostgresNode.missing():
        pytest.skip(missing)
    with Hall(tmp_path, {"CHAPPE_BROKER": rabbit.url, "CHAPPE_STORE": postgres.url}) as hall:
        hall.start_all()
        converse(hall, lambda _: None)
