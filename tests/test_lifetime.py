"""What every supervised process does."""

from __future__ import annotations

import os

import psutil
import pytest

from chappe.lifetime import memory_of


def test_the_memory_of_a_process_is_what_the_kernel_says_and_nothing_where_there_is_none() -> None:
    assert memory_of(os.getpid()) == pytest.approx(psutil.Process().memory_info().rss, rel=0.2)
    assert memory_of(None) == memory_of(2**30) == 0
