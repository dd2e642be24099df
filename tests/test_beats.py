"""What a worker tells its supervisor: nothing is counted twice, nothing is lost, and a beat is never too long for a pipe."""

from __future__ import annotations

import pytest

from chappe.beats import BOUNDS, Beat, Clocked, Histogram, Times, decode, encode


@pytest.mark.parametrize(("seconds", "at"), [(0.0, 0), (0.001, 0), (0.0011, 1), (7200.0, len(BOUNDS) - 1), (1e9, len(BOUNDS))])
def test_a_value_is_counted_in_the_first_bound_that_it_does_not_exceed(seconds: float, at: int) -> None:
    clocked = Clocked()
    clocked.add("q", seconds, seconds)
    (times,) = clocked.take()
    for histogram in (times.waited, times.ran):
        assert (histogram.counts.index(1), histogram.count, histogram.total) == (at, 1, seconds)


def test_what_is_taken_is_counted_once_and_what_could_not_be_told_is_put_back() -> None:
    clocked = Clocked()
    clocked.add("q", 1.0, 2.0)
    clocked.add("q", None, 3.0)
    taken = clocked.take()
    assert clocked.take() == []
    clocked.add("q", 5.0, 1.0)
    clocked.put_back(taken)
    ((queue, waited, ran),) = [(times.queue, times.waited, times.ran) for times in clocked.take()]
    assert (queue, waited.count, waited.total, ran.count, ran.total) == ("q", 2, 6.0, 3, 6.0)


def test_a_beat_of_many_queues_is_cut_to_what_a_pipe_takes_at_once_and_the_rest_follows() -> None:
    clocked = Clocked()
    names = [f"push.channel-{number:04}" for number in range(100)]
    for name in names:
        for _ in range(3):
            clocked.add(name, 123456.789012, 123456.789012)
    told: list[str] = []
    beats = 0
    while taken := clocked.take():
        frame = encode(Beat(10_000, taken))
        assert len(frame) < 4096
        assert b"\n" not in frame
        beats += 1
        told += [times.queue for times in decode(frame).times]
    assert told == names
    assert beats < 12


def test_times_of_several_processes_add_up() -> None:
    one, other = (Times("q", ran=Histogram([0, 1], seconds)) for seconds in (1.0, 2.0))
    one.include(other)
    assert (one.ran.count, one.ran.total, one.waited.count) == (2, 3.0, 0)
