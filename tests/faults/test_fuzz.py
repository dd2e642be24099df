"""Random input to everything that decodes, in the size of CI; `make fuzz` runs a million."""

from __future__ import annotations

import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .fuzzing.__main__ import SLOWEST, run
from .fuzzing.gateway import TARGETS as GATEWAY
from .fuzzing.mutation import TOKENS, Mutator
from .fuzzing.targets import TARGETS, Target

ALL = [*TARGETS, *GATEWAY]
each_target = pytest.mark.parametrize("target", ALL, ids=lambda target: target.name)


def inputs(target: Target) -> st.SearchStrategy[bytes]:
    """Bytes of any kind, and valid inputs into which something was written."""
    anything = st.binary(max_size=300)
    piece = st.one_of(st.sampled_from(TOKENS), st.binary(max_size=8))

    def written(seed: bytes, at: float, length: int, what: bytes) -> bytes:
        place = int(at * len(seed))
        return seed[:place] + what + seed[place + length :]

    return st.one_of(
        st.builds(written, st.sampled_from(target.seeds), st.floats(0, 1), st.integers(0, 20), piece),
        st.builds(written, st.sampled_from(target.seeds), st.floats(0, 1), st.integers(0, 500), piece),
        anything,
    )


@each_target
def test_only_documented_errors_come_out(target: Target) -> None:
    @settings(max_examples=100, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(inputs(target))
    def fuzz(data: bytes) -> None:
        try:
            target.call(data)
        except target.errors:
            pass

    fuzz()


@pytest.mark.proof
@each_target
def test_a_few_thousand_mutations_bring_out_nothing_else_and_take_no_time(target: Target) -> None:
    wrong, _, slowest = run(target, 2000, seed=20260301)

    assert wrong == []
    assert slowest < SLOWEST


@each_target
def test_what_is_valid_is_taken(target: Target) -> None:
    """A target that refuses everything would find nothing."""
    taken = 0
    for seed in target.seeds:
        try:
            target.call(seed)
            taken += 1
        except target.errors:
            continue
    assert taken >= len(target.seeds) - 1


@pytest.mark.proof
def test_an_undocumented_error_and_a_slow_input_are_seen() -> None:
    def planted(data: bytes) -> None:
        if b"\xff" in data:
            raise KeyError("planted")
        if b"NaN" in data:
            started = time.thread_time()
            while time.thread_time() - started < SLOWEST * 1.5:
                pass

    wrong, _, slowest = run(Target("planted", planted, [b"abcdefgh"], (ValueError,), 1.0), 3000, seed=7)

    assert any(line.startswith("KeyError: 'planted': ") for line in wrong)
    assert any(line.startswith("took 0.1") for line in wrong)
    assert slowest > SLOWEST


@pytest.mark.proof
def test_a_seed_gives_the_same_inputs_again() -> None:
    first, again = Mutator(TARGETS[0].seeds, 5), Mutator(TARGETS[0].seeds, 5)

    assert [first.next() for _ in range(200)] == [again.next() for _ in range(200)]


@pytest.mark.proof
def test_the_shares_make_a_whole() -> None:
    assert 0.99 < sum(target.share for target in ALL) < 1.1
