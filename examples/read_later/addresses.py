"""Which addresses may be fetched: those of the public Internet, and never a machine of our own network."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Final, TypeAlias

Resolve: TypeAlias = Callable[[str, int], Awaitable[Sequence[str]]]

_NAT64: Final = IPv6Network("64:ff9b::/96")


class Forbidden(Exception):
    """The address belongs to no public web server; the message names it."""


def is_public(text: str) -> bool:
    """Tell whether an address is one of the public Internet, also where it wraps another one."""
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return False
    inner = _inner(address) if isinstance(address, IPv6Address) else None
    if inner is not None:
        return is_public(str(inner))
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified)


def _inner(address: IPv6Address) -> IPv4Address | None:
    """Return the IPv4 address that an IPv6 address leads to: mapped, 6to4, Teredo, NAT64."""
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)


async def resolve(host: str, port: int) -> Sequence[str]:
    """Ask the system for the addresses of a host; raises `OSError`."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(place[0]) for *_, place in found))


async def public_address(host: str, port: int, ask: Resolve = resolve) -> str:
    """Return the address to connect to; raises `Forbidden` if any of the host's is not public, and `OSError` if it has none.

    Whoever connects must use this very address: the next answer of the name server could be another one.
    """
    found = await ask(host, port)
    if not found:
        raise OSError(f"{host} has no address")
    for address in found:
        if not is_public(address):
            raise Forbidden(f"{host} leads to {address}, which is no address of the public Internet")
    return found[0]
