"""Measures: for each run, each work, each system in turn, so that the machine's noise hits all of them alike."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

from benchmarks import (
    archive,
    backlog,
    drain,
    fair,
    gateway,
    held,
    idle,
    latency,
    masks,
    neighbours,
    push,
    sending,
    supervision,
    triggers,
    watched,
)
from benchmarks.meters import Machine
from benchmarks.peers import measure as peer
from benchmarks.peers.catalogue import OVER_POSTGRES, PROMISES, SENDING, SENDING_FAR, WORKING, WORKING_FAR, Peer
from benchmarks.peers.limit import measure as limit
from benchmarks.results import Results
from benchmarks.scale import SCALES, Scale
from benchmarks.stage import NotMeasured, Session
from benchmarks.table import show
from benchmarks.works import Figure

Measure = Callable[[Session, Scale], AsyncIterator[Figure]]
PeerMeasure = Callable[[Peer, Session, Scale], AsyncIterator[Figure]]


def _each(measure: PeerMeasure, peers: Sequence[Peer]) -> dict[str, Measure]:
    return {peer.system: functools.partial(measure, peer) for peer in peers}


FAMILIES: dict[str, dict[str, Measure]] = {
    "drain": {"chappe": drain.measure, **_each(peer.drain, WORKING), "limit": limit.drain},
    "together": {"chappe": drain.measure_together, **_each(peer.together, WORKING)},
    "send": {"chappe": sending.measure, **_each(peer.send, SENDING), "limit": limit.send},
    "disk": {"limit": limit.disk},
    "latency": {"chappe": latency.measure, **_each(peer.latency, WORKING), "limit": limit.latency},
    "backlog": {"chappe": backlog.measure},
    "neighbours": {"chappe": neighbours.measure},
    "gateway": {"chappe": gateway.measure},
    "watched": {"chappe": watched.measure},
    "idle": {"chappe": idle.measure},
    "archive": {"chappe": archive.measure},
    "push": {"chappe": push.measure, **{how: functools.partial(push.measure_peer, how) for how in ("send_text", "raw")}},
    "triggers": {"chappe": triggers.measure},
    "masks": {"chappe": masks.measure},
    "fair": {"chappe": fair.measure},
    "supervision": {"chappe": supervision.measure},
}
FAR: dict[str, dict[str, Measure]] = {
    "drain": {"chappe": drain.measure, **_each(peer.drain, WORKING_FAR)},
    "together": {"chappe": drain.measure_together, **_each(peer.together, WORKING_FAR)},
    "send": {"chappe": sending.measure, **_each(peer.send, SENDING_FAR), "limit": limit.send_far},
    "disk": {"limit": limit.disk},
    "latency": {"chappe": latency.measure, **_each(peer.latency, WORKING_FAR), "limit": limit.latency_far},
    "backlog": {"chappe": backlog.measure},
    "triggers": {"chappe": triggers.measure},
    "masks": {"chappe": masks.measure},
}
POSTGRES: dict[str, dict[str, Measure]] = {
    "drain": {"chappe": drain.measure, **_each(peer.drain, OVER_POSTGRES)},
    "together": {"chappe": drain.measure_together},
    "send": {"chappe": sending.measure, **_each(peer.send, OVER_POSTGRES)},
    "disk": {"limit": limit.disk},
    "latency": {"chappe": latency.measure, **_each(peer.latency, OVER_POSTGRES)},
    "backlog": {"chappe": backlog.measure},
    "watched": {"chappe": watched.measure},
    "held": {"chappe": held.measure, **_each(held.measure_peer, OVER_POSTGRES)},
    "archive": {"chappe": archive.measure},
    "triggers": {"chappe": triggers.measure},
    "masks": {"chappe": masks.measure},
    "fair": {"chappe": fair.measure},
}
_BROKERS = {"file": FAMILIES, "postgres": POSTGRES, "rabbitmq": FAR}
_RESULTS = {"file": "results.json", "postgres": "postgres.json", "rabbitmq": "rabbitmq.json"}


def _options() -> argparse.Namespace:
    options = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    options.add_argument("works", nargs="*", metavar="WORK", help=f"of {', '.join(FAMILIES)}; all without any")
    options.add_argument("--broker", choices=_BROKERS, default="file", help="where messages wait; servers are started for it")
    options.add_argument("--runs", type=int, default=3)
    options.add_argument("--scale", choices=SCALES, default="full")
    options.add_argument("--systems", default="", help=f"of {','.join(PROMISES)}; all without it")
    options.add_argument("--append", action="store_true", help="add runs to the rows that are there, instead of beginning them anew")
    options.add_argument("--at-once", action="store_true", help="all works side by side: only to see that they work")
    options.add_argument("--table", action="store_true", help="only print what was measured before")
    options.add_argument("--output", type=Path)
    chosen = options.parse_args()
    chosen.output = chosen.output or Path(__file__).with_name(_RESULTS[chosen.broker])
    chosen.systems = [system for system in chosen.systems.split(",") if system]
    for asked, known in ((chosen.works, _BROKERS[chosen.broker]), (chosen.systems, PROMISES)):
        if unknown := [name for name in asked if name not in known]:
            options.error(f"unknown: {', '.join(unknown)}; there are {', '.join(known)}")
    return chosen


class Measuring:
    """One call of the bench."""

    def __init__(self, chosen: argparse.Namespace, results: Results) -> None:
        self._chosen = chosen
        self._scale = SCALES[chosen.scale]
        self._results = results
        self._begun: set[str] = set()
        self.missing: dict[str, str] = {}

    async def all(self) -> None:
        """Run everything that was asked for."""
        with tempfile.TemporaryDirectory(prefix="chappe-bench-") as folder:
            families = _BROKERS[self._chosen.broker]
            async with contextlib.aclosing(Session(Path(folder), broker=self._chosen.broker)) as session:
                for _ in range(self._chosen.runs):
                    turns = [
                        functools.partial(self._one, session, family, system, measure)
                        for family in self._chosen.works or families
                        for system, measure in families[family].items()
                        if not self._chosen.systems or system in self._chosen.systems
                    ]
                    if self._chosen.at_once:
                        await asyncio.gather(*(turn() for turn in turns))
                    else:
                        for turn in turns:
                            await turn()

    async def _one(self, session: Session, family: str, system: str, measure: Measure) -> None:
        if system in self.missing:
            return
        started, machine = time.monotonic(), Machine()
        try:
            async for figure in measure(session, self._scale):
                if not self._chosen.append and figure.work.name not in self._begun:
                    self._results.forget(figure.work.name)
                self._begun.add(figure.work.name)
                self._results.add(system, figure)
        except NotMeasured as reason:
            self.missing[system] = str(reason)
            print(f"{family}, {system}: not measured: {reason}", file=sys.stderr, flush=True)
            return
        print(
            f"{family}, {system}: {time.monotonic() - started:.1f} s; others took {machine.others():.2f} cores meanwhile",
            file=sys.stderr,
            flush=True,
        )


def main() -> None:
    """Measure, write, print."""
    chosen = _options()
    results = Results.read(chosen.output)
    measuring = Measuring(chosen, results)
    if not chosen.table:
        try:
            asyncio.run(measuring.all())
        finally:
            results.write(chosen.output)
    show(results.rows(), results.medians, SCALES[chosen.scale], measuring.missing, broker=chosen.broker)


if __name__ == "__main__":
    main()
