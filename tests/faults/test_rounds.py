"""The rounds of every build: each fault of the servers at least once, under a stream of messages."""

from __future__ import annotations

import json

import pytest

from tests.faults.rounds.plants import PLANTS
from tests.faults.rounds.run import Options, rounds
from tests.servers.postgres import PostgresNode
from tests.servers.rabbitmq import RabbitNode

pytestmark = pytest.mark.proof

_missing = RabbitNode.missing() or PostgresNode.missing()
needs_servers = pytest.mark.skipif(_missing is not None, reason=str(_missing))


@needs_servers
@pytest.mark.timeout(400)
def test_nothing_is_lost_nothing_hangs_and_nobody_is_deaf_in_twelve_rounds_of_faults() -> None:
    """On one node; a cluster takes a busy machine for a broken network, so its rounds are those of `make storm BROKER=rabbitmq`."""
    verdict, evidence = rounds(Options(rounds=12, on_cluster=0))
    assert verdict.is_good, f"{verdict}\n{json.dumps(evidence)}"
    assert len(evidence["rounds"]) == 12
    assert sum(one["confirmed"] for one in verdict.figures.values()) > 3_000
    assert sum(one["unknown"] + one["refused"] for one in verdict.figures.values()) > 0, "faults that nobody feels show nothing"


@needs_servers
def test_a_planted_loss_is_seen() -> None:
    """The other plants take as long as the rounds: `python -m tests.faults.rounds --plant NAME --only FAULT` shows each."""
    _, kind, fault = PLANTS["forgets"]
    verdict, _ = rounds(Options(only=(fault,), plant="forgets"))
    assert verdict.faults[f"{kind}, one node"], str(verdict)
