"""Finds ports for servers of one's own, on loopback, where nobody else's can be reached by mistake."""

from __future__ import annotations

import contextlib
import errno
import random
import socket
from typing import Final

LOOPBACK: Final = "127.0.0.1"
# Below the ports from which Linux takes one for each connection: a server that is started later still finds its own free.
_RANGE: Final = (10_000, 32_000)


def free_ports(count: int) -> list[int]:
    """Return ports that nobody uses; all are held until all are found, so that they differ."""
    found: list[int] = []
    with contextlib.ExitStack() as stack:
        while len(found) < count:
            one = stack.enter_context(socket.socket())
            port = random.SystemRandom().randint(*_RANGE)
            try:
                one.bind((LOOPBACK, port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
            else:
                found.append(port)
    return found
