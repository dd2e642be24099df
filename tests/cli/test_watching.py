"""`chappe watch`."""

from collections.abc import Callable
from pathlib import Path

from tests import commands

from .conftest import Chappe, environment

BATCH = """
from chappe.batches import Batches
from shop import app, Order
batches = Batches(app)
print(batches.send([Order(customer=name) for name in ("Ada", "Bob", "{last}")]))
"""


def batch_of(folder: Path, last: str) -> str:
    done = commands.program(folder, environment(), BATCH.replace("{last}", last))
    assert done.code == 0, done.err.decode()
    return done.out.decode().strip()


def test_w17_a_batch_is_watched_until_it_is_over_and_dead_letters_are_told(
    chappe: Chappe, worked: Callable[[], None], tmp_path: Path
) -> None:
    good = batch_of(tmp_path, "Cy")
    bad = batch_of(tmp_path, "Eve")
    now = chappe("watch", "--once", good)
    assert {k: v for k, v in now.json.items() if k != "began_at"} == {
        "id": good, "total": 3, "waiting": 3, "done": 0, "dead": 0, "over": False,
    }  # fmt: skip
    worked()
    ended = chappe("watch", good).json
    assert (ended["waiting"], ended["done"], ended["dead"], ended["over"]) == (0, 3, 0, True)
    over = chappe("watch", bad, code=1)
    assert (over.json["done"], over.json["dead"], over.json["over"]) == (2, 1, True)
    assert "1 dead letter of 3" in over.err
    assert "is no batch" in chappe("watch", "orders", code=1).err
