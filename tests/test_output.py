"""Text for stderr never keeps its writer waiting."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from chappe.output import Output

from .waiting import until


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    os.close(ends[0])


def drained(reading: int, until_text: bytes) -> bytes:
    found = b""
    while until_text not in found:
        found += os.read(reading, 1 << 20)
    return found


def test_lines_come_out_in_order(pipe: tuple[int, int]) -> None:
    out = Output(pipe[1])
    for number in range(100):
        out.write(b"line %d\n" % number)
    assert out.flush(30)
    assert os.read(pipe[0], 1 << 16).split(b"\n")[:-1] == [b"line %d" % number for number in range(100)]


def test_nobody_waits_for_a_reader_and_what_was_dropped_is_told_when_one_comes(pipe: tuple[int, int]) -> None:
    out = Output(pipe[1], most=200_000)
    for number in range(5000):
        out.write(b"%0100d\n" % number)  # more than the pipe and the queue hold
    assert not out.flush(0.01)
    found, told = b"", 0
    while not told or found.count(b"\n") - found.count(b"dropped") + told < 5000:
        found += os.read(pipe[0], 1 << 20)
        told = sum(int(count) for count in re.findall(rb"(\d+) log lines? dropped: nobody read stderr\n", found))
    written = [line for line in found.split(b"\n") if line and b"dropped" not in line]
    assert told > 1000 and len(written) + told == 5000
    assert written == sorted(set(written)), "in their order, and none twice"


def test_a_reader_that_went_away_and_a_handle_that_does_not_wait_hurt_nobody(pipe: tuple[int, int]) -> None:
    os.set_blocking(pipe[1], False)
    out = Output(pipe[1])
    for number in range(2000):
        out.write(b"%0100d\n" % number)
    found = drained(pipe[0], b"%0100d\n" % 1999)
    assert found.count(b"\n") == 2000
    closed = Output(os.open("/dev/full", os.O_WRONLY))
    closed.write(b"lost\n")
    assert closed.flush(30)


def test_a_forked_process_writes_its_own_lines_once(pipe: tuple[int, int]) -> None:
    program = (
        "import os, sys\nfrom chappe import output\n"
        "output.stderr.write(b'before\\n')\n"
        "child = os.fork()\n"
        "if child == 0:\n    output.stderr.write(b'child\\n')\n    output.end_now(3)\n"
        "assert os.waitpid(child, 0)[1] == 3 << 8\n"
        "output.stderr.write(b'after\\n')\n"
        "output.end_now(0)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert sorted(done.stderr.split()) == ["after", "before", "child"]


def test_what_a_signal_handler_writes_does_not_wait_for_what_it_interrupted(pipe: tuple[int, int]) -> None:
    out = Output(pipe[1])
    with out._lock:  # pyright: ignore[reportPrivateUsage]
        out.write(b"from within\n")
    assert until(lambda: os.read(pipe[0], 100)) == b"from within\n"
