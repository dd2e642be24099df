"""A process of clients that stop reading: `python -m benchmarks.unread PORT CLIENTS`.

When it is told to, it reads what is left, and tells how many of them the gateway had closed.
"""

from __future__ import annotations

import socket
import sys

from benchmarks import cue
from benchmarks.listeners import UPGRADE

_SMALL = 4096  # bytes that the kernel keeps for one who does not read
_PATIENCE = 10.0


def main(port: int, clients: int) -> None:
    """Listen to everything, and do not read it."""
    all_of_them: list[socket.socket] = []
    for _ in range(clients):
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SMALL)
        client.connect(("127.0.0.1", port))
        client.sendall(f"GET /events?pattern=%23 HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{UPGRADE}\r\n".encode())
        client.recv(64)
        all_of_them.append(client)
    cue.wait()
    cue.tell(sum(map(_is_closed, all_of_them)))


def _is_closed(client: socket.socket) -> bool:
    client.settimeout(_PATIENCE)
    try:
        while client.recv(1 << 20):
            pass
    except TimeoutError:
        return False
    except ConnectionError:
        pass
    return True


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]))
