"""The ledger itself: a storm without a fault is good, and each planted fault is called by its name."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from tests.faults.storm.journal import Journal, Line, Process, Reader
from tests.faults.storm.ledger import History, Strike, judge, wanted

pytestmark = pytest.mark.proof

A, B, P = Process(10, 0.0), Process(11, 0.0), Process(99, 0.0)
WORK, ECHO, PAIR, MASK, HTTP = "work.steps1.0.1", "work.steps1.0.2+e", "pair.batches1.7.3", "mask.masks1.0.4", "work.http1.0.5"
STEPS = [f"step.steps1.0.{number}" for number in range(4)]


def sent(name: str, word: str = "confirmed", at: float = 1.0, more: str = "") -> list[Line]:
    return [Line(at, P, "attempt", name), Line(at + 0.1, P, word, name, more)]


def run(
    name: str, identity: str, at: float = 2.0, process: Process = A, *, end: str | None = "end", kind: str = "work", key: str = ""
) -> list[Line]:
    started = Line(at, process, "start", identity, f"{kind} {key} 1 {name}")
    return [started, *([Line(at + 0.5, process, end, identity)] if end else [])]


def good() -> History:
    """A small storm: everything once, one message again after its worker was killed, one failed attempt."""
    names = [WORK, ECHO, PAIR, MASK, HTTP, *STEPS]
    runs = [
        *run(WORK, "w"), *run(ECHO, "e"), *run(f"{ECHO}/echo", "e2", 3.0, kind="echo"), *run(PAIR, "p", kind="pair"),
        *run(MASK, "m", kind="mask", key="lodging1"), *run(HTTP, "h", end=None), *run(HTTP, "h", 5.2, B),
        *(line for n, name in enumerate(STEPS) for line in run(name, f"s{n}", 2.0 + n, B, kind="step", key="0")),
        *run("work.steps1.0.9+f", "f", 2.0, B, end="raise"), *run("work.steps1.0.9+f", "f", 4.0, B),
        *run("tick/100.5", "t1", 2.0, B, kind="tick"), *run("tick/101.5", "t2", 3.0, B, kind="tick"),
    ]  # fmt: skip
    effects = [
        (WORK, "w"), (ECHO, "e"), (f"{ECHO}/echo", "e2"), (f"{PAIR}/first", "p"), (f"{PAIR}/second", "p"), (MASK, "m"), (HTTP, "h"),
        *((name, f"s{n}") for n, name in enumerate(STEPS)), ("work.steps1.0.9+f", "f"), ("tick/100.5", "t1"), ("tick/101.5", "t2"),
    ]  # fmt: skip
    lines = [line for name in [*names, "work.steps1.0.9+f"] for line in sent(name)]
    return History(lines, runs, [Strike(5.0, "worker", A.pid)], effects, slots=(100, 101), concurrency=2)


def found(history: History) -> set[str]:
    return {fault for fault, names in judge(history).faults.items() if names}


def without(history: History, *names: str) -> History:
    return dataclasses.replace(history, effects=[(name, identity) for name, identity in history.effects if name not in names])


def plus(history: History, *, sent: list[Line] = [], runs: list[Line] = [], effects: list[tuple[str, str]] = []) -> History:
    return dataclasses.replace(history, sent=[*history.sent, *sent], runs=[*history.runs, *runs], effects=[*history.effects, *effects])


def test_a_storm_without_a_fault_is_good_and_has_its_figures() -> None:
    verdict = judge(good())
    assert verdict.is_good, verdict
    assert verdict.figures["confirmed"] == verdict.figures["attempted"] == 10
    assert verdict.figures["double_starts"] == 1
    assert verdict.figures["failed_runs"] == 1
    assert verdict.figures["recovery"] == {"count": 1, "p50": 0.2, "p99": 0.2, "most": pytest.approx(0.2)}
    assert verdict.figures["kills"] == {"worker": 1}


@pytest.mark.parametrize(
    ("name", "fault"),
    [(WORK, "lost"), (MASK, "lost"), (HTTP, "phantom"), (ECHO, "half done"), (f"{ECHO}/echo", "half done"), (f"{PAIR}/first", "half done")],
)
def test_a_confirmed_message_without_its_effect_is_lost(name: str, fault: str) -> None:
    assert found(without(good(), name)) == {fault}


def test_a_message_with_two_handlers_that_did_nothing_is_lost() -> None:
    assert found(without(good(), *wanted(PAIR))) == {"lost"}


def test_a_dead_letter_is_not_lost() -> None:
    assert found(dataclasses.replace(without(good(), WORK), dead=[WORK])) == set()


def test_an_effect_of_two_messages_is_duplicated() -> None:
    assert found(plus(good(), effects=[(WORK, "w again")])) == {"duplicated"}


def test_an_inbox_that_takes_a_message_twice_is_found() -> None:
    assert found(plus(good(), effects=[(WORK, "w")])) == {"duplicated"}


def test_what_was_refused_must_not_be_done() -> None:
    assert found(plus(good(), sent=sent("work.batches1.7.8", "refused"))) == set()
    assert found(plus(good(), sent=sent("work.batches1.7.8", "refused"), effects=[("work.batches1.7.8", "x")])) == {"refused but done"}


def test_what_is_unknown_may_be_done_or_not_but_not_by_half() -> None:
    pair = "pair.batches1.7.8"
    unknown = plus(good(), sent=sent(pair, "unknown"))
    assert found(unknown) == set()
    assert found(plus(unknown, effects=[(f"{pair}/first", "x"), (f"{pair}/second", "x")])) == set()
    assert found(plus(unknown, effects=[(f"{pair}/first", "x")])) == {"half done"}


def test_a_publisher_with_keys_must_come_to_know() -> None:
    assert found(plus(good(), sent=sent("work.http1.0.8", "unknown"))) == {"undecided"}
    assert found(plus(good(), sent=[Line(1.0, P, "attempt", "step.steps1.1.0")])) == {"undecided"}


def test_what_nobody_sent_is_unexpected() -> None:
    assert found(plus(good(), effects=[("work.steps1.0.77", "x")])) == {"unexpected"}


def test_a_receipt_that_names_another_message_is_found() -> None:
    assert found(plus(good(), sent=sent(WORK, more="w"))) == set()
    assert found(plus(good(), sent=sent(WORK, more="v"))) == {"misnamed"}


def test_what_still_waits_is_stuck() -> None:
    assert found(dataclasses.replace(good(), waiting=1)) == {"stuck"}


@pytest.mark.parametrize("slots", [(100, 102), (100, 100)])
def test_a_slot_without_a_tick_and_a_tick_without_a_slot_are_found(slots: tuple[int, int]) -> None:
    assert found(dataclasses.replace(good(), slots=slots)) == {"lost in the clock"}


def test_a_damaged_payload_is_found() -> None:
    assert found(plus(good(), runs=[Line(2.1, A, "damaged", "w", WORK)])) == {"damaged"}


def test_a_step_after_a_later_one_is_reordered() -> None:
    late = plus(good(), runs=run(STEPS[1], "s1", 6.0, B, kind="step", key="0"))
    assert "reordered" in found(late)


def test_a_step_that_starts_again_after_a_kill_before_the_next_is_in_order() -> None:
    lane = "step.steps1.7."
    runs = [
        *run(f"{lane}0", "x0", 4.8, A, end=None, kind="step", key="7"),
        *run(f"{lane}0", "x0", 5.1, B, kind="step", key="7"),
        *run(f"{lane}1", "x1", 5.7, B, kind="step", key="7"),
    ]
    assert found(plus(good(), runs=runs)) == set()


def test_two_runs_of_a_key_at_a_time_overlap() -> None:
    runs = [*run("mask.masks1.1.0", "x", 2.2, B, kind="mask", key="lodging1")]
    history = plus(good(), sent=sent("mask.masks1.1.0"), runs=runs, effects=[("mask.masks1.1.0", "x")])
    assert found(history) == {"overlapping"}


def test_a_run_that_a_kill_cut_off_does_not_overlap() -> None:
    runs = [
        *run("mask.masks1.1.0", "x", 4.9, A, end=None, kind="mask", key="lodging2"),
        *run("mask.masks1.1.1", "y", 5.1, B, kind="mask", key="lodging2"),
    ]
    names = ["mask.masks1.1.0", "mask.masks1.1.1"]
    history = plus(
        good(), sent=[line for n in names for line in sent(n)], runs=runs, effects=[("mask.masks1.1.0", "x"), ("mask.masks1.1.1", "y")]
    )
    assert found(history) == set()


def test_a_second_start_that_no_kill_explains_is_found() -> None:
    assert found(plus(good(), runs=run(WORK, "w", 4.0, B))) == {"started again for nothing"}
    assert found(plus(good(), runs=run(WORK, "w", 5.4, B))) == set(), "its worker was killed at 5, before the ack was heard"


def test_a_frozen_process_explains_a_second_start_for_a_while() -> None:
    frozen = [*good().strikes, Strike(2.2, "worker", B.pid, 4.0)]
    again = plus(dataclasses.replace(good(), strikes=frozen), runs=run(WORK, "w", 4.1, B))
    assert found(again) == set(), "a process that was frozen starts what it had in hand"
    much_later = plus(dataclasses.replace(good(), strikes=frozen), runs=run("tick/100.5", "t1", 9.0, A))
    assert "started again for nothing" not in found(much_later), "it was frozen while the message ran"


def test_the_next_process_with_the_same_number_is_not_the_killed_one() -> None:
    reborn = Process(A.pid, 6.0)
    runs = [*run(WORK, "w", 5.5, B), *run(WORK, "w", 8.0, reborn), *run(WORK, "w", 9.0, B)]
    assert "started again for nothing" in found(plus(good(), runs=runs))


def test_more_open_messages_than_slots_in_one_worker_are_found() -> None:
    runs = [line for n in range(3) for line in run(f"work.steps1.2.{n}", f"x{n}", 4.5, A, end=None)]
    assert "more open than slots" in found(plus(good(), runs=runs))


def test_more_double_starts_than_the_kills_allow_are_found() -> None:
    runs = [line for n in range(3) for at, process in ((4.0, A), (5.5, B)) for line in run(f"work.steps1.2.{n}", f"x{n}", at, process)]
    assert found(plus(good(), runs=runs)) == {"more doubles than slots"}


def test_a_mask_must_run_after_it_was_sent() -> None:
    assert found(plus(good(), sent=[line for line in sent(MASK, at=2.5)])) == set(), "the first attempt counts"
    late = dataclasses.replace(good(), sent=[line if line.name != MASK else line._replace(at=line.at + 5) for line in good().sent])
    assert found(late) == {"ran too early"}


def test_a_torn_line_is_left_until_its_end_comes(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "worker")
    journal.write("start", "a", "work  1 a,b")
    (path,) = tmp_path.iterdir()
    with path.open("ab") as file:
        file.write(b"1.5 end")
    reader = Reader(tmp_path)
    assert [(line.word, line.name, line.more) for line in reader.read()] == [("start", "a", "work  1 a,b")]
    assert list(reader.read()) == []
    with path.open("ab") as file:
        file.write(b" a \n")
    assert [(line.at, line.word, line.name) for line in reader.read()] == [(1.5, "end", "a")]
