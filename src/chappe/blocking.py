"""A blocking verb inside a running event loop: it works, but keeps everything else in the loop waiting."""

from __future__ import annotations

import logging
import sys

log = logging.getLogger("chappe")

Place = tuple[str, int]


def warn_of_blocking(verb: str, said: set[Place]) -> None:
    """Say that a place outside of Chappe calls a blocking verb inside a running event loop, unless it was `said` already."""
    frame = sys._getframe(1)  # noqa: SLF001 - documented, and the way of warnings.warn  # pyright: ignore[reportPrivateUsage]
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).startswith("chappe."):
        if frame.f_globals["__name__"] == "chappe.testing":  # a test waits for its trial
            return
        frame = frame.f_back
    place = (frame.f_code.co_filename, frame.f_lineno)
    if place not in said:
        said.add(place)
        log.warning("%s:%d: %s blocks the event loop that runs here until it is done; write: await app.a%s(…)", *place, verb, verb)
