"""A network of one's own for a cluster: hosts that clients reach at one side, that reach each other at the other, and a way to cut.

Each host is a namespace of the kernel's network, and a further one is the switch between them. No namespace has a name: it is there
for as long as a process is in it, and those processes die with the thread that started them. So a run that was killed leaves none.

Clients reach the hosts at addresses of 127/8, through a device. That takes a setting and a route more than other addresses do, but
what is sent there after the end comes back refused, from this machine; to a private address it would be sent out into a real network.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from collections.abc import Iterable
from typing import Final

# A place that stays when this one's process ends; it says when it is there.
_HOLD: Final = ("setpriv", "--pdeathsig", "KILL", "unshare", "--net", "sh", "-c", "echo here && exec sleep infinity")
_TRIED: Final = ("unshare", "--net", "sh", "-c", "ip link add name a type veth peer name b && ip link add name c type bridge")
_FIRST: Final = 11


class Network:
    """The switch and its hosts, which are counted from 0; the addresses outlive `stop`, as far as nobody else takes them."""

    def __init__(self, hosts: int) -> None:
        first, second = 64 + secrets.randbelow(64), secrets.randbelow(256)
        self.device = f"chappe-{first:02x}{second:02x}"
        self._clients = f"127.{first}.{second}"
        self._count = hosts
        self._places: list[subprocess.Popen[bytes]] = []

    @staticmethod
    def missing() -> str | None:
        """Tell why no network can be made here; none if one can."""
        if os.geteuid() != 0:
            return "only root may make namespaces of the network"
        absent = [program for program in ("ip", "nsenter", "setpriv", "unshare") if shutil.which(program) is None]
        if absent:
            return f"not in the path: {', '.join(absent)} (Debian's packages iproute2 and util-linux)"
        if not os.access("/proc/sys/net/ipv4/conf/lo/route_localnet", os.W_OK):
            return "the settings of the network cannot be changed here"
        tried = subprocess.run(_TRIED, capture_output=True, text=True, check=False)
        return f"no network can be made here: {tried.stderr.strip()}" if tried.returncode != 0 else None

    def address(self, host: int) -> str:
        """Where clients, on this machine, reach a host."""
        return f"{self._clients}.{_FIRST + host}"

    @staticmethod
    def peer_address(host: int) -> str:
        """Where the hosts reach a host; nobody else does."""
        return f"198.18.0.{_FIRST + host}"

    def enter(self, host: int) -> tuple[str, ...]:
        """Return what a program is started with to be at a host."""
        return self._at(self._places[host])

    def start(self) -> None:
        """Make everything anew, with no cut."""
        assert not self._places, "the network is there"
        try:
            for _ in range(self._count + 1):
                self._places.append(_place())
            self._join()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Remove everything, and return when it is gone: with the last process in it a namespace goes, and with it its devices."""
        for place in self._places:
            place.kill()
        for place in self._places:
            with place:
                pass
        self._places.clear()
        self._run("ip", "link", "delete", self.device, check=False)

    def cut(self, hosts: Iterable[int]) -> None:
        """Let these hosts reach only each other, and the others only the others; clients reach all. What is sent across is lost."""
        apart = set(hosts)
        self._wire(f"link set back{host} master {'apart' if host in apart else 'back'}" for host in range(self._count))

    def heal(self) -> None:
        """Let all reach all."""
        self.cut(())

    def _join(self) -> None:
        switch = self._places[-1].pid
        self._run("ip", "link", "add", self.device, "type", "veth", "peer", "name", "clients", "netns", str(switch))
        self._wire(f"link add {bridge} type bridge" for bridge in ("front", "back", "apart"))
        for host, place in enumerate(self._places[: self._count]):
            for side in ("front", "back"):
                self._wire(
                    (f"link add {side}{host} type veth peer name {side} netns {place.pid}", f"link set {side}{host} master {side} up")
                )
        self._wire(("link set clients master front up", *(f"link set {bridge} up" for bridge in ("front", "back", "apart"))))
        self._settle((), self.device, f"{self._clients}.1")
        for host, place in enumerate(self._places[: self._count]):
            at = self._at(place)
            self._run(*at, "ip", "link", "set", "lo", "up")
            self._settle(at, "front", self.address(host))
            self._run(*at, "ip", "address", "add", f"{self.peer_address(host)}/24", "dev", "back")
            self._run(*at, "ip", "link", "set", "back", "up")

    def _settle(self, at: tuple[str, ...], device: str, address: str) -> None:
        """Return a device an address of 127/8, and say that what goes to such addresses is meant for it."""
        self._run(*at, "sh", "-c", f"echo 1 >/proc/sys/net/ipv4/conf/{device}/route_localnet")
        self._run(*at, "ip", "address", "add", f"{address}/24", "dev", device)
        self._run(*at, "ip", "link", "set", device, "up")
        self._run(*at, "ip", "route", "add", f"{self._clients}.0/24", "dev", device, "table", "local")

    def _wire(self, commands: Iterable[str]) -> None:
        self._run(*self._at(self._places[-1]), "ip", "-batch", "-", told="\n".join(commands))

    @staticmethod
    def _at(place: subprocess.Popen[bytes]) -> tuple[str, ...]:
        return ("nsenter", f"--net=/proc/{place.pid}/ns/net")

    @staticmethod
    def _run(*command: str, told: str = "", check: bool = True) -> None:
        ran = subprocess.run(command, input=told, capture_output=True, text=True, check=False)
        assert ran.returncode == 0 or not check, f"{' '.join(command)}: {ran.stderr}"


def _place() -> subprocess.Popen[bytes]:
    """Make a namespace, with a process that stays in it."""
    place = subprocess.Popen(_HOLD, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True)
    assert place.stdout is not None
    if not place.stdout.readline():  # an end instead of the word
        raise RuntimeError(f"{' '.join(_HOLD)} ended with {place.wait()}")
    return place
