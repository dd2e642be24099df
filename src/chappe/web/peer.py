"""Which user of this machine is behind a connection: asked of the kernel, for a loopback connection says nothing of itself.

Linux lists the socket at the other end with its owner: by its addresses over netlink (sock_diag(7)), or as text in `/proc/net/tcp`.
A socket that its process has closed is listed as root's, without an inode: it is believed only with one.
"""

from __future__ import annotations

import socket
import struct
import sys
from pathlib import Path
from typing import Any, Final

_SOCK_DIAG: Final = 4  # NETLINK_SOCK_DIAG
_BY_FAMILY: Final = 20  # SOCK_DIAG_BY_FAMILY
_REQUEST: Final = 1  # NLM_F_REQUEST: one socket, not a list
_HEADER: Final = struct.Struct("=IHHII")
_QUERY: Final = struct.Struct("=BBBBI")
_PORTS: Final = struct.Struct(">HH")
_FOUND: Final = struct.Struct("=BBBB4s44x12xII")  # inet_diag_msg: family, state, timer, retransmits; the ports; uid and inode
_LISTENING: Final = 10
_ANY_STATE: Final = 0xFFFFFFFF
_MAPPED: Final = "::ffff:"

Address = tuple[str, int]


def user_behind(client: Any, server: Any) -> int | None:
    """Return the user id behind a TCP connection, by the addresses of both ends as this end sees them; None if that cannot be told."""
    try:
        family, there, here = _ends(client, server)
    except (TypeError, ValueError, IndexError, OSError):
        return None  # no TCP, or no socket at all
    if sys.platform != "linux":
        return None
    try:
        return _by_netlink(family, there, here)
    except OSError:  # not allowed here, or without the module for it
        return _by_table(family, there, here)


def _ends(client: Any, server: Any) -> tuple[int, Address, Address]:
    there, here = (str(client[0]).partition("%")[0], int(client[1])), (str(server[0]).partition("%")[0], int(server[1]))
    if there[0].startswith(_MAPPED) and "." in there[0]:  # the other end may be an IPv4 socket: both kinds are found as that
        there, here = (there[0].removeprefix(_MAPPED), there[1]), (here[0].removeprefix(_MAPPED), here[1])
    family = socket.AF_INET6 if ":" in there[0] else socket.AF_INET
    for host, _ in (there, here):
        socket.inet_pton(family, host)
    return family, there, here


def _by_netlink(family: int, there: Address, here: Address) -> int | None:
    hosts = [socket.inet_pton(family, host).ljust(16, b"\0") for host, _ in (there, here)]
    ports = _PORTS.pack(there[1], here[1])
    query = (
        _QUERY.pack(family, socket.IPPROTO_TCP, 0, 0, _ANY_STATE) + ports + b"".join(hosts) + struct.pack("=III", 0, _ANY_STATE, _ANY_STATE)
    )
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _SOCK_DIAG) as asked:
        asked.send(_HEADER.pack(_HEADER.size + len(query), _BY_FAMILY, _REQUEST, 1, 0) + query)
        answer = asked.recv(8192, socket.MSG_DONTWAIT)  # it is there when `send` returns
    if _HEADER.unpack_from(answer)[1] != _BY_FAMILY or len(answer) < _HEADER.size + _FOUND.size:
        raise OSError("no socket with these addresses is known")
    _, state, _, _, found, user, inode = _FOUND.unpack_from(answer, _HEADER.size)
    return user if found == ports and state != _LISTENING and inode else None


def _by_table(family: int, there: Address, here: Address, folder: Path = Path("/proc/net")) -> int | None:
    """Look at all sockets; twice, for the two columns of one that is being closed may be of different moments."""
    users = {_listed(family, there, here, folder) for _ in range(2)}
    return users.pop() if len(users) == 1 else None


def _listed(family: int, there: Address, here: Address, folder: Path) -> int | None:
    wanted = {_written(family, there, here)}
    names = ["tcp6"] if family == socket.AF_INET6 else ["tcp", "tcp6"]
    if family == socket.AF_INET:
        wanted.add(_written(socket.AF_INET6, (_MAPPED + there[0], there[1]), (_MAPPED + here[0], here[1])))
    for name in names:
        try:
            lines = (folder / name).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if (fields[1], fields[2]) in wanted and fields[9] != "0":
                return int(fields[7])
    return None


def _written(family: int, there: Address, here: Address) -> tuple[str, str]:
    """Return the addresses as the kernel writes them: each word of four bytes as a number of this machine, in hexadecimal."""
    texts: list[str] = []
    for host, port in (there, here):
        packed = socket.inet_pton(family, host)
        words = struct.unpack(f"={len(packed) // 4}I", packed)
        texts.append(f"{''.join(f'{word:08X}' for word in words)}:{port:04X}")
    return texts[0], texts[1]
