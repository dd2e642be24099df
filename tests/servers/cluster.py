"""A cluster of three RabbitMQ nodes of one's own, each on a host of its own, whose network can be cut.

A host is a namespace of the kernel's network, so this needs root. Which RabbitMQ is run is decided as for a `RabbitNode`.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final, Self

from .network import Network
from .ports import free_ports
from .rabbitmq import PATIENCE, Host, RabbitNode

SIZE: Final = 3
_GREETED: Final = 1.0
_SET_UP: Final = 2  # seconds that a node waits for each peer it cannot reach, before it finds itself in a minority
# What a node knows by itself. What rabbitmqctl's lists say of leaders comes later: with a frozen node, only when it is taken for dead.
_LEADER: Final = """
    {{ok, Queue}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"{vhost}">>, queue, <<"{queue}">>)),
    {{Name, _}} = amqqueue:get_pid(Queue),
    case ra_leaderboard:lookup_leader(Name) of {{_, Node}} -> Node; _ -> nobody end.
"""
# A node that pauses refuses clients first, and has ended what it keeps some seconds later.
_ENDED: Final = "[undefined, undefined, undefined] =:= [whereis(Name) || Name <- [rabbit_sup, ra_sup, mnesia_sup]]."


class RabbitCluster:
    """Three nodes, counted from 0, whose data outlive `kill` and `stop`: `start` and `restart` run them again, where they were.

    `configuration` is added to the rabbitmq.conf of each, whose folders are `0`, `1` and `2`. `ticks` is the seconds within which
    a node notices that another is silent; RabbitMQ's own minute would be the length of every test. The nodes and their network
    die with the thread that started them, which should be the main one.
    """

    def __init__(self, folder: Path, configuration: str = "", *, partition_handling: str = "pause_minority", ticks: int = 4) -> None:
        self.folder = folder
        self.ticks = ticks
        self.nodes: list[RabbitNode] = []
        self.network = Network(SIZE)
        self._ports = free_ports(3)  # free on this machine too: what is sent there when the network is gone must reach nobody else's
        self._names = [f"chappe@host{n}" for n in range(SIZE)]
        self._apart: frozenset[int] = frozenset()
        self._frozen: set[int] = set()
        self._addresses = folder / "addresses"
        settings = {
            "cluster_partition_handling": partition_handling,
            "cluster_formation.peer_discovery_backend": "classic_config",
            **{f"cluster_formation.classic_config.nodes.{n}": name for n, name in enumerate(self._names, 1)},
        }
        self._configuration = "\n".join((*(f"{key} = {value}" for key, value in settings.items()), configuration))

    @staticmethod
    def missing() -> str | None:
        """Tell why no cluster can be started here; none if one can."""
        return RabbitNode.missing() or Network.missing()

    @property
    def url(self) -> str:
        """Where clients connect to, all nodes in their order."""
        return f"amqp://guest:guest@{','.join(f'{self.network.address(n)}:{self._ports[0]}' for n in range(SIZE))}/"

    def start(self) -> None:
        """Start all, and return when they answer and are one cluster."""
        assert not self.nodes, "the cluster runs"
        self._prepare()
        try:
            self.network.start()
            self.nodes = [RabbitNode(self.folder / str(n), self._configuration, self._host(n)) for n in range(SIZE)]
            for node in self.nodes:
                node.launch()
            for node in self.nodes:
                node.wait()
            self.wait_for(SIZE)
        except BaseException:
            self._end(signal.SIGKILL)
            raise

    def stop(self) -> None:
        """End all as an administrator would, on a healed network, and remove the network."""
        self._end(signal.SIGTERM)

    def kill(self, n: int) -> None:
        """End a node as a crash would; its host stays, and refuses clients."""
        self.nodes[n].kill()
        self._frozen.discard(n)

    def restart(self, n: int) -> None:
        """Start a node again, after its end if it runs, and return when it answers; others may have to run for that."""
        self.thaw(n)
        self.nodes[n].stop()
        self.nodes[n].start()

    def freeze(self, n: int) -> None:
        """Let a node do nothing, with its connections open.

        After `ticks` the others take it for dead. One that is thawed then is connected again before it knows of that: RabbitMQ
        does not see it as a minority, and the nodes may disagree until it is restarted. RabbitMQ 3.10 gives the queues that it
        leads to others after some five seconds in any case, 4.0 after `ticks` only.
        """
        os.kill(self.nodes[n].pid, signal.SIGSTOP)
        self._frozen.add(n)

    def thaw(self, n: int) -> None:
        """Let a node go on, if it was frozen."""
        if n in self._frozen:
            os.kill(self.nodes[n].pid, signal.SIGCONT)
            self._frozen.discard(n)

    def partition(self, nodes: Iterable[int]) -> None:
        """Let these reach only each other, and the others only the others; clients reach all. Erlang needs some seconds to notice."""
        self._apart = frozenset(nodes)
        self.network.cut(self._apart)

    def heal(self) -> None:
        """Let all reach all again; `wait_for` tells when they are one cluster.

        Nodes that are just about to pause may never come back by themselves: wait until they are `paused`, or have to restart them.
        """
        self.partition(())

    def answers(self, n: int) -> bool:
        """Tell whether a node takes clients: one that runs, is not frozen and did not pause itself in a minority."""
        return self.nodes[n].answers(_GREETED)

    def paused(self, n: int) -> bool:
        """Tell whether a node paused itself in a minority, and is done with that."""
        if not self.nodes[n].runs or n in self._frozen or self.answers(n):
            return False
        return self.nodes[n].control("eval", _ENDED).strip() == "true"

    def wait_for(self, count: int) -> None:
        """Return when so many nodes are one cluster, in the view of a node that the most others reach."""
        self._ask().control("await_online_nodes", str(count), "--timeout", f"{PATIENCE / 2:g}")

    def leader(self, queue: str, vhost: str = "/") -> int:
        """Return which node leads a quorum queue, as soon as it is one that can: not a dead, a frozen or a cut-off one."""
        deadline = time.monotonic() + PATIENCE
        while True:
            said = self._ask().control("eval", _LEADER.format(vhost=vhost, queue=queue)).strip().strip("'")
            if said in self._names and (found := self._names.index(said)) in self._able():
                return found
            assert time.monotonic() < deadline, f'{said} is said to lead "{queue}", and cannot'

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _prepare(self) -> None:
        """Write what all share: where Erlang finds the hosts, and the secret by which nodes know each other."""
        secret = secrets.token_hex()
        for n in range(SIZE):
            cookie = self.folder / str(n) / ".erlang.cookie"
            cookie.parent.mkdir(parents=True, exist_ok=True)
            if not cookie.exists():
                cookie.touch(0o600)
                cookie.write_text(secret)
                cookie.chmod(0o400)
        lines = [f'{{host, {{{self.network.peer_address(n).replace(".", ",")}}}, ["host{n}"]}}.' for n in range(SIZE)]
        self._addresses.write_text("\n".join((*lines, "{lookup, [file, native]}.", "")))

    def _host(self, n: int) -> Host:
        return Host(
            self._names[n],
            *self._ports,
            address=self.network.address(n),
            peer_address=self.network.peer_address(n),
            enter=self.network.enter(n),
            erlang=f"-kernel net_ticktime {self.ticks} -kernel net_setuptime {_SET_UP}",
            names=self._addresses,
        )

    def _able(self) -> list[int]:
        """Return the nodes that run and are not frozen, of the side of the network where more of them are."""
        able = [n for n, node in enumerate(self.nodes) if node.runs and n not in self._frozen]
        sides = [n for n in able if n in self._apart], [n for n in able if n not in self._apart]
        return max(sides, key=len)

    def _ask(self) -> RabbitNode:
        able = self._able()
        assert able, "no node can be asked"
        return self.nodes[next((n for n in able if self.answers(n)), able[0])]  # one that paused answers only after a while

    def _end(self, number: signal.Signals) -> None:
        with contextlib.ExitStack() as last:
            last.callback(self.network.stop)
            if any(node.runs for node in self.nodes):
                self.heal()
            for n, node in enumerate(self.nodes):
                self.thaw(n)
                if node.runs:
                    os.kill(node.pid, number)  # all at once; the wait for each comes after
            for node in self.nodes:
                node.stop()
        self.nodes = []
