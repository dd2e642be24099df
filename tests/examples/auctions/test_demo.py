"""The demo itself, over all 309 real auctions: its last check compares the books, and what everybody heard, with a plain loop."""

import asyncio
from pathlib import Path

import pytest

from auctions.bids import find_bids, replay
from auctions.demo import differences, play
from auctions.stage import Stage
from tests.servers.shared import Database, Vhost

from ...waiting import until
from ..conftest import EXAMPLES
from ..running import run_demo

SAMPLE = Path(EXAMPLES) / "auctions/sample_bids.csv"


@pytest.mark.proof
def test_d15_all_real_auctions_end_as_a_plain_loop_computes_them() -> None:
    if find_bids().name == "sample_bids.csv":
        pytest.skip("the real bids of /work/shared/data are not here")
    run_demo("auctions", "--seconds", "60", "--auctions", "309", "--wait", "0", "--after", "600", timeout=600)


@pytest.mark.proof
@pytest.mark.parametrize("broker", ["postgres", "rabbitmq"])
def test_d14_bids_end_as_a_plain_loop_computes_them_on_servers_too(tmp_path: Path, rabbit: Vhost, postgres: Database, broker: str) -> None:
    urls = {"CHAPPE_STATE_DIR": str(tmp_path / "state"), "CHAPPE_BROKER": postgres.url}
    if broker == "rabbitmq":
        urls |= {"CHAPPE_BROKER": rabbit.url, "CHAPPE_STORE": postgres.url}
    bids = replay(SAMPLE)
    with Stage(tmp_path / "stage", urls=urls) as stage:
        stage.start_chappe()
        answers = asyncio.run(play(stage, bids, 3.0))
        until(lambda: stage.idle() and not differences(stage, bids), f"every bid to be decided and told: {differences(stage, bids)[:3]}")
        assert answers.keys() == {202}
