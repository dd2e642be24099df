"""What every supervised process does."""

from __future__ import annotations

import os
import queue
import signal
import time
from types import SimpleNamespace

import psutil
import pytest

from chappe.lifetime import PARENT_VARIABLE, Lifeline, memory_of


def test_the_memory_of_a_process_is_what_the_kernel_says_and_nothing_where_there_is_none() -> None:
    assert memory_of(os.getpid()) == pytest.approx(psutil.Process().memory_info().rss, rel=0.2)
    assert memory_of(None) == memory_of(2**30) == 0


@pytest.mark.parametrize("gives_back", [True, False], ids=["worker", "other"])
def test_what_is_asked_to_end_when_its_supervisor_died_is_gone_within_fifteen_seconds_whatever_its_grace(
    gives_back: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: queue.SimpleQueue[object] = queue.SimpleQueue()
    # In modules of its own: threads that other tests have left sleep, too.
    changed = {
        time: {"sleep": done.put},
        os: {"kill": lambda _, number: done.put(number)},
        signal: {"getsignal": lambda _: print if gives_back else signal.SIG_DFL},
    }
    for module, others in changed.items():
        monkeypatch.setattr(f"chappe.lifetime.{module.__name__}", SimpleNamespace(**{**vars(module), **others}))
    monkeypatch.setattr("chappe.lifetime.end_now", lambda _: done.put("gone"))
    alive, ended = os.pipe()
    monkeypatch.setenv(PARENT_VARIABLE, str(alive))
    Lifeline(3600.0, delay=3600.0)
    os.close(ended)
    seen = list(iter(lambda: done.get(timeout=60), "gone"))
    assert [one for one in seen if isinstance(one, signal.Signals)] == [signal.SIGTERM] + [signal.SIGQUIT] * gives_back
    assert sum(one for one in seen if isinstance(one, float)) < 15
