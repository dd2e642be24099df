"""What the governor sees of a host: processors, who waits for them, and how fast an address of the application answers."""

from __future__ import annotations

import collections
import logging
import threading
import time
from pathlib import Path
from typing import Final

import psutil

from chappe.supervisor.governor import Reading

log = logging.getLogger("chappe.supervisor")

_EVERY: Final = 0.1  # seconds between two questions to the address
_LATEST: Final = 20  # answers
_PATIENCE: Final = 5.0
_STALLS: Final = Path("/proc/pressure/cpu")


class Pressure:
    """Reads what grew since the last reading."""

    def __init__(self) -> None:
        psutil.cpu_percent(percpu=True)
        self._stalled = _stalls()
        self._at = time.monotonic()
        self.cores: list[float] = []

    def read(self, probe: Probe | None) -> Reading:
        """Return what is seen now."""
        self.cores = psutil.cpu_percent(percpu=True)
        now, stalled = time.monotonic(), _stalls()
        grown = None if stalled is None or self._stalled is None else (stalled - self._stalled) / 1e6 / max(0.001, now - self._at)
        self._stalled, self._at = stalled, now
        return Reading(sum(self.cores) / max(1, len(self.cores)), grown, None if probe is None else probe.quartile())


def _stalls() -> int | None:
    """Return the microseconds so far in which somebody waited for a processor; nothing where the kernel does not count them."""
    try:
        return int(_STALLS.read_text().split("\n")[0].rpartition("total=")[2])
    except (OSError, ValueError):
        return None


class Probe:
    """Asks an address ten times a second, in a thread of its own, for as long as it is not closed."""

    def __init__(self, address: str) -> None:
        import urllib.request  # 0.3 MB that a host without a probe can do without

        self._address = address
        self._latest: collections.deque[float] = collections.deque(maxlen=_LATEST)
        self._closed = threading.Event()
        self._open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open
        threading.Thread(target=self._ask, name="chappe-probe", daemon=True).start()

    def quartile(self) -> float | None:
        """Return the seconds within which three quarters of the latest answers came; an address that does not answer says nothing.

        Of twenty answers the slowest two are chance: by them a quiet host looks 1.3 times slower in every tenth reading.
        """
        latest = sorted(self._latest)
        return latest[int(0.75 * len(latest))] if latest else None

    def close(self) -> None:
        """Ask no more."""
        self._closed.set()

    def _ask(self) -> None:
        told = False
        while not self._closed.wait(_EVERY):
            began = time.monotonic()
            try:
                with self._open(self._address, timeout=_PATIENCE) as answer:
                    answer.read()
            except TimeoutError:
                self._latest.append(_PATIENCE)
            except OSError as error:
                if not told:
                    log.warning("the probe %s does not answer (%s); the governor goes by the processors alone", self._address, error)
                told = True
                self._latest.clear()
            else:
                told = False
                self._latest.append(time.monotonic() - began)
