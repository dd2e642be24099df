"""The settings: flag over environment over chappe.toml over default, each checked when it is read."""

from __future__ import annotations

import difflib
import hashlib
import ipaddress
import os
import re
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, cast

import msgspec
from msgspec import Struct

from chappe.bounds import FURTHEST
from chappe.errors import InvalidSettings
from chappe.redaction import HIDDEN, remember, secrets_in, shown, without_secrets
from chappe.roles import PROXY, refuse_unknown_role

_UNPREFIXED: Final = {
    "PORT": "port", "LOG_LEVEL": "log_level", "AMQP_URL": "broker", "DATABASE_URL": "store", "STATE_DIRECTORY": "state_dir",
}  # fmt: skip
_PREFIX: Final = "CHAPPE_"
_LEVELS: Final = ("debug", "info", "warning", "error", "critical")
_FORMATS: Final = ("auto", "console", "json")
TOKEN_VARIABLE: Final = "CHAPPE_TOKEN"  # noqa: S105 - the name, not the token
_OTHER_VARIABLES: Final = frozenset({"CHAPPE_CONFIG", "CHAPPE_ALLOW_NETWORK_DISK"})
CONCURRENCY: Final = 16
_DAY: Final = 86400.0
_SHORTEST_SECRET: Final = 32  # bytes: as long as what it makes (RFC 7518 §3.2)
_LARGEST_BODY: Final = 1024 * 1024 * 1024
_LARGEST_IN_ROW: Final = 48 * 1024 * 1024  # what goes into one frame to the engine, with room for its envelope
_FILE: Final = re.compile(r"sqlite:///[^?#\x00-\x1f]*[^?#\x00-\x1f/]")
_AMQP: Final = re.compile(r"amqps?://[^\s/?#]+(?:/[^\s]*)?")
_POSTGRES: Final = re.compile(r"postgres(?:ql)?://[^\s]+")
_HOST: Final = r"(?:\[[0-9a-f:.]+\]|[a-z0-9_](?:[a-z0-9._-]*[a-z0-9_])?)(?::\d{1,5})?"


class Pool(Struct, frozen=True, forbid_unknown_fields=True):
    """Worker processes of one kind: which queues they serve (`*` is a wildcard), how many, what each is given, and when it is renewed.

    `processes` is a number, "min..max" between which the supervisor chooses so that no message waits longer than `max_wait` seconds, or
    "auto": one for each core that this process may use.
    """

    queues: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()
    processes: int | str = "auto"
    concurrency: int = CONCURRENCY
    max_wait: float = 10.0
    max_messages: int | None = None
    max_age: float | None = None
    max_memory: int | None = None
    memory_limit: int | None = None
    nice: int = 0
    environment: dict[str, str] = {}
    log: str | None = None
    start_retries: int = 5

    def __post_init__(self) -> None:
        processes_of(self.processes)
        if not 1 <= self.concurrency <= 10_000:
            raise ValueError("concurrency must be within 1..10000")
        for name, most in (
            ("max_wait", FURTHEST), ("max_messages", 2**63), ("max_age", FURTHEST), ("max_memory", 2**63), ("memory_limit", 2**63),
        ):  # fmt: skip
            value = getattr(self, name)
            if value is not None and not 0 < value <= most:
                raise ValueError(f"{name} must be more than 0, and finite")
        if not -20 <= self.nice <= 19:
            raise ValueError("nice must be within -20..19; what is below 0 needs a right that only root has")
        if not 1 <= self.start_retries <= 1000:
            raise ValueError("start_retries must be within 1..1000")
        for name in (*self.queues, *self.exclude):
            if not name or "," in name:
                raise ValueError(f"queues and exclude are lists of names, each without a comma; {shown(name)} is none")
        for name in self.environment:
            if not re.fullmatch(r"[A-Za-z_]\w*", name) or name == TOKEN_VARIABLE or "\0" in self.environment[name]:
                raise ValueError(f"environment: {shown(name)} cannot be set here; write names like OMP_NUM_THREADS")
        if self.log is not None and not self.log.strip():
            raise ValueError("log must name a file")

    @property
    def bounds(self) -> tuple[int, int]:
        """The least and the largest number of processes."""
        return processes_of(self.processes)


def processes_of(given: int | str) -> tuple[int, int]:
    """Return the least and the largest number of processes that a number, "min..max" or "auto" means. Raises `ValueError`."""
    if given == "auto":
        cores = len(os.sched_getaffinity(0))
        return cores, cores
    found = re.fullmatch(r"(\d{1,9})(?:\.\.(\d{1,9}))?", str(given))
    least, most = (int(found[1]), int(found[2] or found[1])) if found else (-1, -1)
    if not 0 <= least <= most <= 1000:
        raise ValueError(f'processes must be within 0..1000: a number, "min..max" or "auto", not {shown(str(given))}')
    return least, most


class Governor(Struct, frozen=True, forbid_unknown_fields=True):
    """When the workers of a host make room for others: above `cpu` percent of all cores, or where an address answers slowly.

    `probe` is an URL of the application, asked ten times a second; it counts as slow above `slow` times what it needs on a quiet host.
    """

    cpu: float = 85.0
    probe: str | None = None
    slow: float = 1.3

    def __post_init__(self) -> None:
        if not 1 <= self.cpu <= 100:
            raise ValueError("cpu must be within 1..100 percent")
        if not 1.1 <= self.slow <= 100:
            raise ValueError("slow must be within 1.1..100 times the quiet value of the probe")
        if self.probe is not None and not re.fullmatch(rf"http://{_HOST}(?:/\S*)?", self.probe, re.IGNORECASE):
            raise ValueError(f"probe: {shown(self.probe)} is no address; write one like http://127.0.0.1:8000/health")


class Token(Struct, frozen=True, forbid_unknown_fields=True):
    """A token of the gateway with a role; only its SHA-256 is written down, which tells nobody the token."""

    role: str
    digest: str

    def __post_init__(self) -> None:
        refuse_unknown_role(self.role)
        if not re.fullmatch(r"[0-9a-f]{64}", self.digest):
            raise ValueError("digest must be the SHA-256 of the token in hexadecimal: printf %s TOKEN | sha256sum")


class Alert(Struct, frozen=True, forbid_unknown_fields=True):
    """When to tell somebody of the queues of this name (`*` is a wildcard), the processes of all pools, or the events of a pattern.

    `age` is how old the oldest message may be, `stalled` for how long nothing may run while something waits, in seconds; `depth` and `dead`
    how many messages may be ready and dead; `crash_loop` whether a process that has given up counts; `most` and `least` how many archived
    `events` there may and must be `within` so many seconds. `hold` are the seconds for which something must be so, or be over.
    """

    queue: str = "*"
    age: float | None = None
    depth: int | None = None
    dead: int | None = None
    stalled: float | None = None
    crash_loop: bool = False
    events: str | None = None
    within: float = 300.0
    most: int | None = None
    least: int | None = None
    hold: float = 10.0

    def __post_init__(self) -> None:
        limits = [limit for limit in (self.age, self.depth, self.dead, self.stalled) if limit is not None]
        counts = [count for count in (self.most, self.least) if count is not None]
        if not limits and not self.crash_loop and not counts:
            raise ValueError("say when: by age, depth, dead, stalled, crash_loop, or by how many events there are")
        if (self.events is None) != (not counts):
            raise ValueError('events, like "bid.*", and most or least belong together')
        if any(not 0 <= value <= FURTHEST for value in (*limits, *counts, self.hold)):
            raise ValueError(f"what an alert is given must not be negative, and at most {FURTHEST:g}")
        if not 1 <= self.within <= _DAY:
            raise ValueError(f"within must be within 1..{_DAY:g} seconds")


class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that can be configured; `broker` is a URL: `sqlite:///chappe.db` is the file beside you, `postgresql://…` a database.

    With `amqp://…` for a broker, `store` is the `postgresql://…` that remembers what RabbitMQ has no notion of.
    """

    app: str | None = None
    broker: str = "sqlite:///chappe.db"
    store: str | None = None
    state_dir: str | None = None
    host: str = "127.0.0.1"
    port: int = 7070
    token: str | None = None
    token_secret: str | None = None
    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    allowed_users: tuple[str, ...] = ()
    trusted_user_header: str | None = None
    allow_plain_amqp: bool = False
    pages: str | None = None
    max_body: int = 1024 * 1024
    large_body: int = 1024 * 1024
    deadline: float = 5.0
    grace: float = 25.0
    deploy_window: float = 600.0
    fork: bool = True
    log_level: str = "info"
    log_format: str = "auto"
    alert: str | None = None
    alert_webhook: str | None = None
    alerts: dict[str, Alert] = {}
    governor: Governor | None = None
    tokens: dict[str, Token] = {}
    users: dict[str, str] = {}
    pools: dict[str, Pool] = msgspec.field(default_factory=lambda: {"default": Pool()})

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ValueError("port must be within 0..65535")
        if not 0 < self.deadline <= _DAY:
            raise ValueError(f"deadline must be more than 0 and at most {_DAY:g} seconds")
        if not 0 <= self.grace <= _DAY:
            raise ValueError(f"grace must not be negative, and at most {_DAY:g} seconds")
        if not 0 <= self.deploy_window <= FURTHEST:
            raise ValueError(f"deploy_window must not be negative, and at most {FURTHEST:g} seconds")
        if not 0 < self.large_body <= _LARGEST_IN_ROW:
            raise ValueError(f"large_body must be within 1..{_LARGEST_IN_ROW} bytes: the bodies above it are in files of their own")
        if not 0 < self.max_body <= _LARGEST_BODY:
            raise ValueError(f"max_body must be within 1..{_LARGEST_BODY} bytes")
        if self.log_level.lower() not in _LEVELS:
            raise ValueError(f"log_level {shown(self.log_level)} must be one of {', '.join(_LEVELS)}")
        if self.log_format not in _FORMATS:
            raise ValueError(f"log_format {shown(self.log_format)} must be one of {', '.join(_FORMATS)}")
        if self.pages is not None and not Path(self.pages).is_dir():
            raise ValueError(f"pages {shown(self.pages)} must be a folder")
        self._check_broker()
        self._check_names()

    def _check_broker(self) -> None:
        if self.is_rabbitmq:
            self._check_rabbitmq()
        elif self.is_postgres:
            if self.store is not None and _same(self.store) != _same(self.broker):
                raise ValueError("store names another place than the broker: PostgreSQL keeps everything in one database; leave out store")
        elif not self.is_file:
            given = shown(self.broker if re.search("[./]", self.broker) else "@")
            raise ValueError(
                f"broker {given} is not known; write sqlite:///chappe.db, or with four slashes for an absolute path, "
                "postgresql://user:password@host/database, or amqp://user:password@host/ with a store"
            )

    def _check_rabbitmq(self) -> None:
        if self.store is None:
            raise ValueError("store is missing: RabbitMQ needs PostgreSQL beside it, like postgresql://user:password@host/database")
        if not _POSTGRES.fullmatch(self.store):
            raise ValueError("store is not known; beside RabbitMQ it is PostgreSQL, like postgresql://user:password@host/database")
        if not self.allow_plain_amqp and not all(is_loopback(host) for host in _plain_hosts(self.broker)):
            raise ValueError(
                "broker: amqp:// sends passwords and messages in the clear to another machine; write amqps://, "
                "or set allow_plain_amqp = true where the network is trusted"
            )

    def _check_names(self) -> None:
        for host in self.allowed_hosts:
            if not re.fullmatch(_HOST, host, re.IGNORECASE):
                raise ValueError(f"allowed_hosts: {shown(host)} is no host; write names like queue.example.org, or with a port")
        for origin in self.allowed_origins:
            if not re.fullmatch(f"[a-z][a-z0-9+.-]*://{_HOST}/?", origin, re.IGNORECASE):
                raise ValueError(f"allowed_origins: {shown(origin)} is no origin; write them like https://app.example.org")
        for user in self.allowed_users:
            if not re.fullmatch(r"[^\s:/,]{1,256}", user):
                raise ValueError(f"allowed_users: {shown(user)} is no user; write names like www-data, or numbers of users")
        for kind, names in (("a pool", self.pools), ("a token", self.tokens), ("an alert", self.alerts)):
            for name in names:
                if not re.fullmatch(r"[\w.-]{1,64}", name):
                    raise ValueError(f"{kind.split()[1]}s: {shown(name)} is no name for {kind}; use letters, digits, dots and dashes")
        if self.alert_webhook is not None and not re.fullmatch(r"https?://[^\s/?#]+(?:/\S*)?", self.alert_webhook):
            raise ValueError("alert_webhook is no address; write one like https://hooks.example.org/chappe")
        self._check_users()

    def _check_users(self) -> None:
        for user, role in self.users.items():
            try:
                refuse_unknown_role(role)
            except ValueError as error:
                raise ValueError(f"users: {shown(user)}: {error}") from None
        if self.token_secret is not None and len(self.token_secret.encode()) < _SHORTEST_SECRET:
            raise ValueError(
                f"token_secret must have {_SHORTEST_SECRET} bytes: python -c 'import secrets; print(secrets.token_urlsafe(32))'"
            )
        if self.trusted_user_header is not None and not re.fullmatch(r"[A-Za-z][A-Za-z0-9-]{0,63}", self.trusted_user_header):
            raise ValueError("trusted_user_header must be the name of a header, like X-Forwarded-User")
        if (self.trusted_user_header is None) != (not self.users):
            raise ValueError('users and trusted_user_header belong together: the header names a user, and users gives each, or "*", a role')
        if self.trusted_user_header is None and any(token.role == PROXY for token in self.tokens.values()):
            raise ValueError("tokens: a proxy speaks for whom a header names; say which in trusted_user_header")

    def __repr__(self) -> str:
        """Write everything but what is secret."""
        values = {name: getattr(self, name) for name in self.__struct_fields__}
        for name in ("broker", "store"):
            values[name] = values[name] and without_secrets(values[name], secrets_in(values[name]))
        for name in ("token", "token_secret", "alert_webhook"):
            values[name] = values[name] and HIDDEN
        return f"Settings({', '.join(f'{name}={value!r}' for name, value in values.items())})"

    @property
    def is_file(self) -> bool:
        """Whether messages wait in a file of this host."""
        return _FILE.fullmatch(self.broker) is not None

    @property
    def is_postgres(self) -> bool:
        """Whether messages wait in PostgreSQL, and nowhere else."""
        return _POSTGRES.fullmatch(self.broker) is not None

    @property
    def is_rabbitmq(self) -> bool:
        """Whether messages wait in RabbitMQ, and PostgreSQL remembers the rest."""
        return _AMQP.fullmatch(self.broker) is not None

    @property
    def path(self) -> Path:
        """The file of the file engine; with servers, the name of what the processes of this host share: of this application and broker."""
        if self.is_file:
            return Path(self.broker.removeprefix("sqlite:///"))
        application = re.sub(r"[^\w.-]+", "-", (self.app or "chappe").removesuffix(":app"))
        place = re.sub(r"(?<=://)[^@/?#]*@", "", _same(self.broker))  # a new password is no other place
        folder = Path(self.state_dir) if self.state_dir else _state_home() / "chappe"
        return folder / f"{application}-{hashlib.blake2s(place.encode(), digest_size=4).hexdigest()}"


def _same(url: str) -> str:
    """Return a URL of PostgreSQL with its scheme written in one way."""
    return re.sub("^postgres://", "postgresql://", url)


def _state_home() -> Path:
    """Return where programs of this user keep what is not to be lost with a restart."""
    try:
        named = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state")
    except RuntimeError:  # there is no home
        named = Path()
    return named if named.is_absolute() else Path(tempfile.gettempdir())


def without_token(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a process that has no use for the token: all but the gateway's."""
    return {name: value for name, value in environment.items() if name != TOKEN_VARIABLE}


def is_loopback(host: str) -> bool:
    """Tell whether a host name or address is this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def place_of(host: str, port: int) -> str:
    """Return how a host and a port are written together (RFC 3986 §3.2.2)."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _plain_hosts(url: str) -> list[str]:
    """Return the hosts of a URL to which nothing is encrypted."""
    scheme, _, rest = url.partition("://")
    if scheme != "amqp":
        return []
    places = re.split(r"[/?#]", rest.rpartition("@")[2] if "@" in re.split(r"[/?#]", rest)[0] else rest)[0]
    return [re.sub(r":\d*$", "", place) for place in places.split(",")]


def load(flags: Mapping[str, Any] | None = None, environment: Mapping[str, str] | None = None, file: Path | None = None) -> Settings:
    """Return the settings; raises `InvalidSettings` with the name of what is wrong and where it came from."""
    environment = os.environ if environment is None else environment
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}

    def put(found: Mapping[str, Any], source: str) -> None:
        remember(found)
        for name, value in found.items():
            if name not in Settings.__struct_fields__:
                raise InvalidSettings(f"{source}: {_unknown(name, Settings.__struct_fields__)}")
            values[name] = value
            sources[name] = source

    chosen = file or Path(environment.get("CHAPPE_CONFIG", "chappe.toml"))
    if chosen.exists():
        try:
            put(tomllib.loads(chosen.read_text()), _path(chosen))
        except (tomllib.TOMLDecodeError, ValueError, RecursionError, OSError) as error:
            raise InvalidSettings(f"{_path(chosen)} cannot be read as TOML: {error}") from None
    elif file is not None or "CHAPPE_CONFIG" in environment:
        raise InvalidSettings(f"{_path(chosen)} does not exist")
    for variable, name in _UNPREFIXED.items():
        if value := environment.get(variable):
            put({name: value.partition(":")[0] if name == "state_dir" else value}, variable)  # systemd may name several
    for name in Settings.__struct_fields__:
        value = environment.get(_PREFIX + name.upper())
        if value and name in ("pools", "governor", "tokens", "users", "alerts"):
            raise InvalidSettings(f"{_PREFIX}{name.upper()}: it is declared in chappe.toml, as a table")
        if value:
            listed = [part.strip() for part in value.split(",") if part.strip()]
            put({name: listed if name.startswith("allowed_") else value}, _PREFIX + name.upper())
    _refuse_misspelled(environment)
    put({name: value for name, value in (flags or {}).items() if value is not None}, "the command line")
    return _checked(values, sources)


def _path(file: Path) -> str:
    return shown(str(file)) if re.search("[@?=:]", str(file)) else str(file)  # a URL may have been put into the wrong variable


def _checked(values: dict[str, Any], sources: Mapping[str, str]) -> Settings:
    if sources.get("store") == "DATABASE_URL" and _POSTGRES.fullmatch(str(values.get("broker"))):
        del values["store"]  # it is the application's own
    types = {field.name: field.type for field in msgspec.structs.fields(Settings)}
    for name, value in values.items():
        if (kind := {"pools": Pool, "tokens": Token, "alerts": Alert}.get(name)) is not None and isinstance(value, Mapping):
            for one, table in cast("Mapping[str, Any]", value).items():
                _check_table(table, kind, f"{sources[name]}: {name}.{one}")
        if name == "governor" and isinstance(value, Mapping):
            _check_table(cast("Mapping[str, Any]", value), Governor, f"{sources[name]}: governor")
        try:
            msgspec.convert(value, types[name], strict=False)
        except msgspec.ValidationError as error:
            raise InvalidSettings(f"{sources[name]}: {name}: {error}") from None
    try:
        return msgspec.convert(dict(values), Settings, strict=False)
    except msgspec.ValidationError as error:
        source = sources.get(re.split(r"\W", str(error))[0])  # what is wrong begins with the name of its setting
        raise InvalidSettings(f"{source}: {error}" if source else str(error)) from None


def _check_table(table: Any, kind: type[Struct], place: str) -> None:
    """Raise `InvalidSettings` naming the setting of a table that is unknown or wrong."""
    if isinstance(table, Mapping):
        for setting in cast("Mapping[str, Any]", table):
            if setting not in kind.__struct_fields__:
                raise InvalidSettings(f"{place}: {_unknown(setting, kind.__struct_fields__)}")
    try:
        msgspec.convert(table, kind, strict=False)
    except msgspec.ValidationError as error:
        raise InvalidSettings(f"{place}: {error}") from None


def _unknown(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f'did you mean "{near[0]}"?' if near else f"known are: {', '.join(known)}"
    return f"no setting is called {shown(name)}, {hint}"


def _refuse_misspelled(environment: Mapping[str, str]) -> None:
    """Raise `InvalidSettings` for a variable that is almost one of ours; others may have variables of that prefix too."""
    known = {_PREFIX + name.upper() for name in Settings.__struct_fields__} | _OTHER_VARIABLES
    for variable in environment:
        if variable.startswith(_PREFIX) and variable not in known and environment[variable]:
            near = difflib.get_close_matches(variable, known, n=1, cutoff=0.9)
            if near:
                raise InvalidSettings(f"{variable}: no such variable is known, did you mean {near[0]}?")
