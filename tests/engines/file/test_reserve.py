"""The reserve: what it gives up is used in order, and is no room for what is new."""

from __future__ import annotations

from pathlib import Path

import pytest

from chappe.engines.file import reserve as module
from chappe.engines.file.reserve import Reserve

MEBIBYTE = 1024 * 1024


class Room:
    """What a disk is said to have free."""

    def __init__(self, free: int) -> None:
        self.free = free

    def __call__(self, _: Path) -> int:
        return self.free


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> Room:
    room = Room(24 * MEBIBYTE)
    monkeypatch.setattr(module, "free_bytes", room)
    return room


def test_what_it_gave_up_itself_is_no_room(tmp_path: Path, room: Room) -> None:
    reserve = Reserve(tmp_path / "chappe.db")
    assert reserve.lay()
    room.free = 3 * MEBIBYTE  # half of the six that it had; the log has the others, and one of its own
    assert reserve.give_up(lambda: None, lambda _: None)
    assert not reserve.lay()
    assert not reserve.fits_beside(4 * MEBIBYTE)
    room.free = 5 * MEBIBYTE
    assert not reserve.lay()
    assert reserve.fits_beside(4 * MEBIBYTE), "somebody freed some"
    room.free = 9 * MEBIBYTE
    assert reserve.lay()


def test_the_log_is_left_for_settling_while_somebody_takes_every_byte(tmp_path: Path, room: Room) -> None:
    room.free = MEBIBYTE - 1
    assert not Reserve(tmp_path / "chappe.db").fits_beside(1024 * MEBIBYTE)


def test_half_of_it_is_free_when_the_log_is_written_back_and_the_rest_is_taken_piece_by_piece(tmp_path: Path, room: Room) -> None:
    reserve, left, seen, taken = Reserve(tmp_path / "chappe.db"), tmp_path / "chappe.db.reserve", list[int](), list[int]()
    assert reserve.lay()
    whole = left.stat().st_size
    assert whole == room.free // 4

    def take(size: int) -> None:
        assert left.stat().st_size == whole // 2 - size - sum(taken)
        taken.append(size)

    assert reserve.give_up(lambda: seen.append(left.stat().st_size), take)
    assert seen == [whole // 2]
    assert whole // 2 - sum(taken) <= max(taken)
    assert left.stat().st_size == 0
