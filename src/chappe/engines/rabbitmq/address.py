"""Where a RabbitMQ is and how to enter it, read from a URL."""

from __future__ import annotations

import difflib
import re
import ssl
from typing import Final
from urllib.parse import parse_qsl, unquote

from msgspec import Struct

from chappe.errors import InvalidSettings

_PORTS: Final = {"amqp": 5672, "amqps": 5671}
_URL: Final = re.compile(r"(amqps?)://(?:([^/?#]*)@)?([^@/?#]*)(/[^?#]*)?(?:\?([^#]*))?")
_HOST: Final = re.compile(r"(?:\[([0-9a-fA-F:.]+)\]|([^\[\]:\s]+))(?::(\d{1,5}))?")
_MANAGEMENT: Final = {"amqp": 15672, "amqps": 15671}
_OPTIONS: Final = ("cacertfile", "certfile", "heartbeat", "keyfile", "management", "verify")
_VERIFY: Final = ("verify_peer", "verify_none")
_LAST_PORT: Final = 65535
_HEARTBEAT: Final = 10
_LONGEST_HEARTBEAT: Final = 3600


class Address(Struct, frozen=True):
    """Hosts that are tried in turn, and what each of them is told; no text of it shows the password.

    `heartbeat`: seconds, 0 for none. `management`: the port of RabbitMQ's management plugin, and whether the URL named it.
    The options of TLS are those of RabbitMQ's own URLs.
    """

    hosts: tuple[tuple[str, int], ...]
    user: str = "guest"
    password: str = "guest"  # noqa: S105 - RabbitMQ's own default, which enters from loopback only
    vhost: str = "/"
    heartbeat: int = _HEARTBEAT
    management: int = _MANAGEMENT["amqp"]
    names_management: bool = False
    tls: bool = False
    cacertfile: str | None = None
    certfile: str | None = None
    keyfile: str | None = None
    verify: bool = True

    @classmethod
    def parse(cls, url: str) -> Address:
        """Read `amqp://user:password@host:port,other:port/vhost?heartbeat=10`, or `amqps://`; raises `InvalidSettings`."""
        read = _URL.fullmatch(url)
        if read is None:
            raise InvalidSettings(
                "the URL of the broker is written amqp://user:password@host:port/vhost, or amqps://; % and a number for / ? #"
            )
        scheme, entrance, hosts, path, query = (part or "" for part in read.groups())
        try:
            options = dict(parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query)))
        except ValueError as error:
            raise InvalidSettings(f"the options in the URL of the broker cannot be read: {error}") from None
        user, _, password = entrance.partition(":")
        for name in options:
            if name not in _OPTIONS:
                near = difflib.get_close_matches(name, _OPTIONS, n=1, cutoff=0.5)
                hint = f'did you mean "{near[0]}"?' if near else f"known are: {', '.join(_OPTIONS)}"
                raise InvalidSettings(f'the URL of the broker has no option "{name}", {hint}')
        if scheme == "amqp" and (secret := options.keys() - {"heartbeat", "management"}):
            raise InvalidSettings(f"{', '.join(sorted(secret))}: only amqps:// takes that")
        verify = options.get("verify", "verify_peer")
        if verify not in _VERIFY:
            raise InvalidSettings(f'verify is {" or ".join(_VERIFY)}, not "{verify}"')
        return cls(
            hosts=tuple(_host(host, _PORTS[scheme]) for host in hosts.split(",")),
            user=unquote(user) if entrance else "guest",
            password=unquote(password) if entrance else "guest",
            vhost=_vhost(path),
            heartbeat=_heartbeat(options.get("heartbeat", str(_HEARTBEAT))),
            management=_port(options.get("management", str(_MANAGEMENT[scheme]))),
            names_management="management" in options,
            tls=scheme == "amqps",
            cacertfile=options.get("cacertfile"),
            certfile=options.get("certfile"),
            keyfile=options.get("keyfile"),
            verify=verify == "verify_peer",
        )

    def context(self) -> ssl.SSLContext | None:
        """Return what TLS needs, read from the disk; none without TLS. Raises `OSError`."""
        if not self.tls:
            return None
        context = ssl.create_default_context(cafile=self.cacertfile)
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if self.certfile is not None:
            context.load_cert_chain(self.certfile, self.keyfile)
        return context

    def __str__(self) -> str:
        hosts = ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.hosts)
        return f"{'amqps' if self.tls else 'amqp'}://{self.user}@{hosts}/{'' if self.vhost == '/' else self.vhost}"

    def __repr__(self) -> str:
        return f"Address({str(self)!r})"


def _host(text: str, port: int) -> tuple[str, int]:
    read = _HOST.fullmatch(text.strip())
    found = int(read[3] or port) if read is not None else 0
    if read is None or not 0 < found <= _LAST_PORT:
        raise InvalidSettings(f'"{text}" is no host of a broker; write host or host:port, several with commas')
    return read[1] or read[2], found


def _port(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) <= _LAST_PORT:
        raise InvalidSettings(f'management is the port of RabbitMQ\'s management plugin, not "{text}"')
    return int(text)


def _vhost(path: str) -> str:
    """Without one it is RabbitMQ's default: clients disagree whether `/` alone means that or the empty name, which nobody uses."""
    vhost = unquote(path.removeprefix("/")) or "/"
    if "/" in path.removeprefix("/"):
        raise InvalidSettings(f'the vhost "{vhost}" in the URL of the broker contains a slash; write it as %2F')
    return vhost


def _heartbeat(text: str) -> int:
    if not text.isdecimal() or int(text) > _LONGEST_HEARTBEAT:
        raise InvalidSettings(f'heartbeat is a number of whole seconds within 0..{_LONGEST_HEARTBEAT}, not "{text}"')
    return int(text)
