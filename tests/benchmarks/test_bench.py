"""The bench itself, in tiny sizes: real processes, and every row that is promised."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks.results import Results, Row
from benchmarks.table import verdict
from benchmarks.works import DISK_SYNC, DRAIN_ONE, DRAIN_TWO, IDLE_CPU, POST_P99, RUN_CPU, SEND, SEND_P50, WORKS, Figure

pytestmark = pytest.mark.proof

ROOT = Path(__file__).parent.parent.parent


def bench(output: Path, *arguments: str, timeout: float = 110, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", "--output", str(output), *arguments]
    everything = {**os.environ, **environment}
    done = subprocess.run(command, cwd=ROOT, env=everything, capture_output=True, text=True, timeout=timeout, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def test_every_work_of_ours_is_measured_with_real_processes_and_written_as_a_row(tmp_path: Path) -> None:
    output = tmp_path / "results.json"
    done = bench(output, "--scale", "tiny", "--runs", "1", "--systems", "chappe", "--at-once")
    rows: list[Row] = json.loads(output.read_text())
    ours = [work for work in WORKS if work is not DISK_SYNC]
    assert [row["work"] for row in rows] == [work.name for work in ours]
    for row, work in zip(rows, ours, strict=True):
        assert set(row) == {"work", "system", "unit", "median", "runs"}
        assert (row["system"], row["unit"]) == ("chappe", work.unit)
        assert row["runs"] == [row["median"]]
        assert math.isfinite(row["median"])
        if work not in {IDLE_CPU, RUN_CPU}:  # in so short a time those who idle may do nothing at all
            assert row["median"] > 0, row
        assert work.name[:30] in done.stdout
    assert "must reach" in done.stdout


def test_the_table_can_be_printed_again_without_measuring(tmp_path: Path) -> None:
    output = tmp_path / "results.json"
    results = Results()
    results.add("chappe", Figure(SEND, 1.0))
    results.write(output)
    before = output.read_bytes()
    assert "missed" in bench(output, "--table").stdout
    assert output.read_bytes() == before


def test_runs_are_kept_and_their_median_is_given(tmp_path: Path) -> None:
    output = tmp_path / "results.json"
    results = Results()
    for value in (3.0, 1.0, 2.0):
        results.add("chappe", Figure(SEND, value))
    results.add("huey", Figure(SEND, 12_345.678))
    results.write(output)
    assert Results.read(output).rows() == [
        {"work": SEND.name, "system": "chappe", "unit": "messages/s", "median": 2.0, "runs": [3.0, 1.0, 2.0]},
        {"work": SEND.name, "system": "huey", "unit": "messages/s", "median": 12_350.0, "runs": [12_350.0]},
    ]


def test_a_work_that_is_measured_no_more_leaves_the_file(tmp_path: Path) -> None:
    output = tmp_path / "results.json"
    output.write_text(json.dumps([{"work": "gone", "system": "chappe", "unit": "s", "median": 1, "runs": [1]}]))
    assert Results.read(output).rows() == []


def test_a_work_begins_anew_for_all_systems_so_that_only_figures_of_one_session_are_compared(tmp_path: Path) -> None:
    output = tmp_path / "results.json"
    results = Results()
    for work in (SEND, DISK_SYNC):
        for system in ("huey", "limit"):
            results.add(system, Figure(work, 7.0))
    results.write(output)
    bench(output, "--scale", "tiny", "--runs", "2", "disk")
    rows = [(row["work"], row["system"], len(row["runs"])) for row in Results.read(output).rows()]
    assert rows == [(SEND.name, "huey", 1), (SEND.name, "limit", 1), (DISK_SYNC.name, "limit", 2)]
    bench(output, "--scale", "tiny", "--runs", "1", "--append", "disk")
    assert len(Results.read(output).rows()[-1]["runs"]) == 3


@pytest.mark.parametrize("asked", [("drian",), ("--systems", "chappe,hueey")])
def test_what_is_not_there_cannot_be_measured(tmp_path: Path, asked: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "benchmarks", "--output", str(tmp_path / "results.json"), *asked]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "unknown: " in done.stderr


def row_of(work: str, median: float, system: str = "chappe") -> Row:
    return Row(work=work, system=system, unit="", median=median, runs=[median])


@pytest.mark.parametrize(("median", "mark"), [(6_000, "ok"), (5_999, "missed")])
def test_a_figure_below_what_it_must_reach_is_marked(median: float, mark: str) -> None:
    assert verdict(row_of(SEND.name, median), {}) == ("≥ 6,000", mark)


@pytest.mark.parametrize(("median", "mark"), [(30, "ok"), (30.1, "missed")])
def test_a_figure_above_what_it_must_not_exceed_is_marked(median: float, mark: str) -> None:
    assert verdict(row_of(POST_P99.name, median), {}) == ("≤ 30", mark)


@pytest.mark.parametrize(
    ("huey", "limit", "mark"),
    [(9_000, 300_000, "ok"), (10_000, 300_000, "missed"), (9_000, 310_000, "missed"), (9_000, None, "?"), (10_000, None, "missed")],
)
def test_draining_is_held_against_huey_and_the_limit_of_the_same_session(huey: float, limit: float | None, mark: str) -> None:
    medians = {(DRAIN_ONE.name, "huey"): huey} | ({} if limit is None else {(DRAIN_ONE.name, "limit"): limit})
    assert verdict(row_of(DRAIN_ONE.name, 75_500), medians)[1] == mark


@pytest.mark.parametrize(("one", "mark"), [(80_000, "ok"), (80_001, "missed")])
def test_two_workers_are_held_against_one(one: float, mark: str) -> None:
    assert verdict(row_of(DRAIN_TWO.name, 80_000), {(DRAIN_ONE.name, "chappe"): one})[1] == mark


@pytest.mark.parametrize(
    ("dramatiq", "told"),
    [(0.9, "aim ≤ dramatiq (0.9) ✓"), (0.7, "aim ≤ dramatiq (0.7) ✗"), (None, "aim ≤ dramatiq;")],
)
def test_an_aim_that_is_not_reached_is_told_and_makes_nothing_missed(dramatiq: float | None, told: str) -> None:
    medians = {(SEND_P50.name, "huey"): 1.1} | ({} if dramatiq is None else {(SEND_P50.name, "dramatiq"): dramatiq})
    must, mark = verdict(row_of(SEND_P50.name, 0.8), medians)
    assert told in must
    assert "aim ≤ huey (1.1) ✓" in must
    assert mark == "ok"


def test_peers_are_held_against_nothing() -> None:
    assert verdict(row_of(SEND.name, 1, "huey"), {}) == ("", "")
