"""Rounds of faults of the servers under a stream of messages: two in every build, each fault at least once in the proof (rows D26, M7)."""

from __future__ import annotations

import json

import pytest

from tests.faults.rounds.plants import PLANTS
from tests.faults.rounds.run import Options, rounds, rounds_alone
from tests.servers.postgres import PostgresNode
from tests.servers.rabbitmq import RabbitNode

_missing = RabbitNode.missing() or PostgresNode.missing()
needs_servers = pytest.mark.skipif(_missing is not None, reason=str(_missing))


@pytest.mark.skipif(PostgresNode.missing() is not None, reason=str(PostgresNode.missing()))
def test_nothing_is_lost_when_postgresql_and_a_worker_are_killed() -> None:
    """Two small rounds for every build: how soon all works again is asked by the rounds of the proof."""
    verdict, _ = rounds_alone(Options(only=("postgresql killed", "worker killed"), quiet=0.2))
    found = {kind: verdict.faults[f"{kind}, postgresql alone"] for kind in ("lost", "unexpected")}
    assert found == {"lost": [], "unexpected": []}
    assert verdict.figures["postgresql alone"]["confirmed"] > 0


@pytest.mark.proof
@pytest.mark.skipif(PostgresNode.missing() is not None, reason=str(PostgresNode.missing()))
@pytest.mark.timeout(400)
def test_nothing_is_lost_nothing_hangs_and_nobody_is_deaf_in_twelve_rounds_on_postgresql_alone() -> None:
    verdict, evidence = rounds_alone(Options(rounds=12))
    assert verdict.is_good, f"{verdict}\n{json.dumps(evidence)}"
    figures = verdict.figures["postgresql alone"]
    assert (len(evidence["rounds"]), figures["confirmed"] > 1_000, figures["unknown"] + figures["refused"] > 0) == (12, True, True)


@pytest.mark.proof
@needs_servers
@pytest.mark.timeout(400)
def test_nothing_is_lost_nothing_hangs_and_nobody_is_deaf_in_twelve_rounds_of_faults() -> None:
    """On one node; a cluster takes a busy machine for a broken network, so its rounds are those of `make storm BROKER=rabbitmq`."""
    verdict, evidence = rounds(Options(rounds=12, on_cluster=0))
    assert verdict.is_good, f"{verdict}\n{json.dumps(evidence)}"
    assert len(evidence["rounds"]) == 12
    assert sum(one["confirmed"] for one in verdict.figures.values()) > 3_000
    assert sum(one["unknown"] + one["refused"] for one in verdict.figures.values()) > 0, "faults that nobody feels show nothing"


@pytest.mark.proof
@needs_servers
def test_a_planted_loss_is_seen() -> None:
    """The other plants take as long as the rounds: `python -m tests.faults.rounds --plant NAME --only FAULT` shows each."""
    _, kind, fault = PLANTS["forgets"]
    verdict, _ = rounds(Options(only=(fault,), plant="forgets"))
    assert verdict.faults[f"{kind}, one node"], str(verdict)
