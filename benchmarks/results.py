"""The rows of results.json: one for each work and system, with all runs and their median."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import TypedDict

from benchmarks.peers.catalogue import PROMISES
from benchmarks.works import WORKS, Figure, Medians

_ORDER = {work.name: place for place, work in enumerate(WORKS)}
_SYSTEMS = tuple(PROMISES)


class Row(TypedDict):
    """One line of results.json."""

    work: str
    system: str
    unit: str
    median: float
    runs: list[float]


def rounded(value: float) -> float:
    """Keep what can be told apart: four digits."""
    return float(f"{value:.4g}")


class Results:
    """What was measured in one session, or in several that are put together."""

    def __init__(self, rows: Iterable[Row] = ()) -> None:
        self._runs: dict[tuple[str, str], list[float]] = {(row["work"], row["system"]): list(row["runs"]) for row in rows}
        self._units = {work.name: work.unit for work in WORKS}

    @classmethod
    def read(cls, path: Path) -> Results:
        """Read what an earlier session wrote, without works that are measured no more."""
        rows: list[Row] = json.loads(path.read_text()) if path.exists() else []
        return cls(row for row in rows if row["work"] in _ORDER)

    def forget(self, work: str) -> None:
        """Begin a work anew for all systems: figures of one session must not be held against those of another."""
        for key in [key for key in self._runs if key[0] == work]:
            del self._runs[key]

    def add(self, system: str, figure: Figure) -> None:
        """Keep one run."""
        self._runs.setdefault((figure.work.name, system), []).append(rounded(figure.value))

    @property
    def medians(self) -> Medians:
        """The median of each row."""
        return {key: statistics.median(runs) for key, runs in self._runs.items()}

    def rows(self) -> list[Row]:
        """Return all rows, works in their order and Chappe first."""
        places = {system: place for place, system in enumerate(_SYSTEMS)}
        keys = sorted(self._runs, key=lambda key: (_ORDER[key[0]], places.get(key[1], len(places)), key[1]))
        return [
            Row(work=work, system=system, unit=self._units[work], median=rounded(self.medians[work, system]), runs=self._runs[work, system])
            for work, system in keys
        ]

    def write(self, path: Path) -> None:
        """Write the rows, one a line."""
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in self.rows())
        path.write_text(f"[\n{lines}\n]\n")
