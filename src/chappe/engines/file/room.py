"""Room on the disk: the log is written back before it grows long, and a full disk gets room for what must end from the reserve."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

import apsw

from chappe.engines.file.reserve import Reserve, free_bytes
from chappe.engines.file.turn import Turn

log = logging.getLogger("chappe.file")

_LOOK_AGAIN: Final = 1.0
_MORE_ROOM: Final = 64 * 1024  # bytes more than when the log could not be written back: it is tried again at once, before they are in it


class Room:
    """Looks after the log and the reserve of one file; `give_up` hears of an error of the disk."""

    def __init__(self, turn: Turn, reserve: Reserve, give_up: Callable[[BaseException], None]) -> None:
        self._turn = turn
        self._folder = turn.path.parent
        self._give_up = give_up
        self.reserve = reserve
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._log_rests_until = 0.0
        self._log_rests_below = 0  # free bytes
        turn.full = not reserve.laid
        if turn.full:
            self._look()

    def close(self) -> None:
        """Look no more, and leave nothing behind."""
        if self._timer is not None:
            self._timer.cancel()
        self.reserve.remove()

    def keep_log_short(self) -> None:
        """Write a long log back, unless that failed a moment ago for want of room."""
        if self._loop.time() >= self._log_rests_until or free_bytes(self._folder) > self._log_rests_below:
            self._write_back(self._turn.log.checkpoint_if_long)

    def make(self) -> bool:
        """Give the reserve up on a disk that is full, and say whether there was any; it is laid again when there is room."""
        made = self.reserve.give_up(lambda: self._write_back(self._turn.log.write_back), self._turn.log.grow)
        if made:
            self._turn.full = True
            self._look_later()
        return made

    def _write_back(self, write: Callable[[], None]) -> bool:
        try:
            write()
        except (apsw.FullError, apsw.BusyError) as error:
            self._log_rests_until = self._loop.time() + _LOOK_AGAIN
            self._log_rests_below = free_bytes(self._folder) + _MORE_ROOM
            log.warning("the log cannot be written back now: %s", error)  # it grows until it can
        except (apsw.IOError, apsw.CorruptError) as error:
            self._give_up(error)
            return False
        return True

    def _look(self) -> None:
        if self._find():
            if self._turn.full:
                log.warning("there is room again in %s", self._folder)
            self._turn.full = False
        else:
            self._look_later()

    def _look_later(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(_LOOK_AGAIN, self._look)

    def _find(self) -> bool:
        """Lay the reserve, if need be where the log was: it may be long when it could not be written back."""
        if self.reserve.lay():
            return True
        return self.reserve.fits_beside(self._turn.log.size()) and self._write_back(self._turn.log.give_back) and self.reserve.lay()
