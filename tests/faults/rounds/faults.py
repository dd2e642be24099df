"""What can happen to the servers: each fault begins, lasts, and has ended when the servers answer again."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import psutil

from tests.faults.rounds.wire import Wire
from tests.servers.cluster import RabbitCluster
from tests.servers.postgres import PostgresNode
from tests.servers.rabbitmq import RabbitNode
from tests.waiting import until

_PATIENCE = 90.0
_FOLLOWS = 15.0  # seconds in which a member that can come back has
_CRITICAL = """
    lists:append([rpc:call(Node, rabbit_quorum_queue, list_with_minimum_quorum_for_cli, []) || Node <- rabbit_nodes:all_running()]).
"""
SHORTEST, LONGEST = 0.5, 7.0  # seconds that what is frozen or blocked stays so
VERY_LONG = 15.0  # what waits for PostgreSQL beyond its deadline must be seen to do so


class Servers:
    """RabbitMQ and PostgreSQL, each behind a wire."""

    def __init__(self, rabbit: RabbitNode, postgres: PostgresNode) -> None:
        self.rabbit, self.postgres = rabbit, postgres
        self.to_rabbit, self.to_postgres = Wire("127.0.0.1", rabbit.port), Wire("127.0.0.1", postgres.port)

    @property
    def urls(self) -> dict[str, str]:
        """What the processes of the rounds are to be given; a half-open connection is found within two heartbeats."""
        return {
            "CHAPPE_BROKER": f"amqp://guest:guest@127.0.0.1:{self.to_rabbit.port}/?heartbeat=2",
            "CHAPPE_STORE": f"postgresql://chappe@127.0.0.1:{self.to_postgres.port}/chappe",
        }

    def mend(self) -> None:
        """Do nothing: each fault ends by itself."""

    def close(self) -> None:
        """End the wires."""
        self.to_rabbit.close()
        self.to_postgres.close()


def _kill(servers: Servers, chance: random.Random) -> None:
    servers.rabbit.kill()
    servers.rabbit.start()


def _restart(servers: Servers, chance: random.Random) -> None:
    servers.rabbit.stop()
    servers.rabbit.start()


def _cut(servers: Servers, chance: random.Random) -> None:
    servers.to_rabbit.cut()


def _half_open(servers: Servers, chance: random.Random) -> None:
    servers.to_rabbit.fall_silent()


@contextlib.contextmanager
def _lasting(chance: random.Random, end: Callable[[], object]) -> Iterator[None]:
    """Have what is begun inside last for a while, and end in any case."""
    try:
        yield
        time.sleep(chance.uniform(SHORTEST, LONGEST))  # the length of the fault, no condition ends it
    finally:
        end()


def _freeze(servers: Servers, chance: random.Random) -> None:
    with _lasting(chance, lambda: os.kill(servers.rabbit.pid, signal.SIGCONT)):
        os.kill(servers.rabbit.pid, signal.SIGSTOP)


def _alarm(servers: Servers, chance: random.Random) -> None:
    with _lasting(chance, lambda: servers.rabbit.control("set_vm_memory_high_watermark", "0.4")):
        servers.rabbit.control("set_vm_memory_high_watermark", "0.0001")


def _kill_postgres(servers: Servers | Alone, chance: random.Random) -> None:
    servers.postgres.kill()
    servers.postgres.start()


def _cut_postgres(servers: Servers | Alone, chance: random.Random) -> None:
    servers.to_postgres.cut()


def _freeze_postgres(servers: Servers | Alone, chance: random.Random) -> None:
    with servers.postgres.frozen():
        time.sleep(chance.uniform(SHORTEST, VERY_LONG))  # the length of the fault, no condition ends it


class Alone:
    """PostgreSQL by itself behind a wire, and the processes of the rounds, whose `host` is `chappe run`."""

    host = 0

    def __init__(self, postgres: PostgresNode, folder: Path) -> None:
        self.postgres, self.folder = postgres, folder
        self.to_postgres = Wire("127.0.0.1", postgres.port)

    @property
    def urls(self) -> dict[str, str]:
        """What the processes of the rounds are to be given."""
        return {"CHAPPE_BROKER": f"postgresql://chappe@127.0.0.1:{self.to_postgres.port}/chappe"}

    def workers(self) -> list[psutil.Process]:
        """Return the processes of the host that have handled something."""
        journals = {path.name for path in (self.folder / "runs").iterdir()}
        return [process for process in psutil.Process(self.host).children(recursive=True) if str(process.pid) in journals]

    def mend(self) -> None:
        """Do nothing: each fault ends by itself."""

    def close(self) -> None:
        """End the wire."""
        self.to_postgres.close()


def _restart_postgres(servers: Alone, chance: random.Random) -> None:
    servers.postgres.stop()
    servers.postgres.start()


def _silence_postgres(servers: Alone, chance: random.Random) -> None:
    servers.to_postgres.fall_silent()


def _part_postgres(servers: Alone, chance: random.Random) -> None:
    with servers.to_postgres.silent():
        time.sleep(chance.uniform(SHORTEST, VERY_LONG))  # the length of the fault, no condition ends it


def _kill_worker(servers: Alone, chance: random.Random) -> None:
    victim = chance.choice(servers.workers())
    victim.kill()
    victim.wait(_PATIENCE)  # what it still begins after the signal was sent is of before the fault's end


class Cluster:
    """Three nodes of RabbitMQ and a PostgreSQL, each behind a wire."""

    def __init__(self, cluster: RabbitCluster, postgres: PostgresNode) -> None:
        self.cluster, self.postgres = cluster, postgres
        self.to_nodes = [Wire(node.host.address, node.port) for node in cluster.nodes]

    @property
    def urls(self) -> dict[str, str]:
        """What the processes of the rounds are to be given."""
        hosts = ",".join(f"127.0.0.1:{wire.port}" for wire in self.to_nodes)
        return {"CHAPPE_BROKER": f"amqp://guest:guest@{hosts}/?heartbeat=2", "CHAPPE_STORE": self.postgres.url}

    def mend(self) -> None:
        """Start again what was killed, before the next fault."""
        for n, node in enumerate(self.cluster.nodes):
            if not node.runs:
                self.cluster.restart(n)
        self.cluster.wait_for(len(self.cluster.nodes))
        for n in range(len(self.cluster.nodes)):  # 3.10.8: a member of a queue may stay down when its node is back, until the next start
            with contextlib.suppress(AssertionError):
                until(self._is_whole, "each queue to have a majority without any one node", _FOLLOWS)
                return
            print(f"a queue lacks a member: node {n} is restarted", file=sys.stderr)
            self.cluster.restart(n)
            self.cluster.wait_for(len(self.cluster.nodes))
        until(self._is_whole, "each queue to have a majority without any one node", _PATIENCE)

    def _is_whole(self) -> bool:
        """Tell whether each queue could lose any one node: one that is back may not yet follow the leaders of all queues."""
        return self.cluster.nodes[0].control("eval", _CRITICAL).strip() == "[]"

    def close(self) -> None:
        """End the wires."""
        for wire in self.to_nodes:
            wire.close()


def _kill_leader(servers: Cluster, chance: random.Random) -> None:
    servers.cluster.kill(servers.cluster.leader("steps"))


def _part_leader(servers: Cluster, chance: random.Random) -> None:
    leader = servers.cluster.leader("steps")
    servers.cluster.partition([leader])
    until(lambda: servers.cluster.paused(leader), "the minority to pause", _PATIENCE)
    servers.cluster.heal()
    servers.cluster.wait_for(len(servers.cluster.nodes))


CLUSTER_FAULTS: Mapping[str, Callable[[Cluster, random.Random], None]] = {
    "leader killed": _kill_leader,
    "leader in a minority, then healed": _part_leader,
}

FAULTS: Mapping[str, Callable[[Servers, random.Random], None]] = {
    "rabbitmq killed": _kill,
    "rabbitmq restarted": _restart,
    "connections cut": _cut,
    "connections half-open": _half_open,
    "rabbitmq frozen": _freeze,
    "rabbitmq blocked by an alarm": _alarm,
    "postgresql killed": _kill_postgres,
    "connections to postgresql cut": _cut_postgres,
    "postgresql frozen": _freeze_postgres,
}


ALONE_FAULTS: Mapping[str, Callable[[Alone, random.Random], None]] = {
    "postgresql killed": _kill_postgres,
    "worker killed": _kill_worker,
    "connections to postgresql cut": _cut_postgres,
    "postgresql restarted": _restart_postgres,
    "postgresql frozen": _freeze_postgres,
    "connections to postgresql half-open": _silence_postgres,
    "postgresql parted, then back": _part_postgres,
}


def schedule(seed: int, rounds: int, faults: Iterable[str]) -> list[str]:
    """Return the faults of a seed: each comes before any comes again."""
    chance = random.Random(seed)
    known, found = list(faults), list[str]()
    while len(found) < rounds:
        turn = list(known)
        chance.shuffle(turn)
        found += turn
    return found[:rounds]
