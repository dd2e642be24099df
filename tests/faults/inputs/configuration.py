"""Wrong settings: in chappe.toml, in the environment, and in flags."""

from __future__ import annotations

from .program import Run, chappe
from .row import Row


def toml(text: str | bytes, *arguments: str) -> Run:
    """Write chappe.toml and run a verb beside it."""
    return chappe(*(arguments or ("queues",)), files={"chappe.toml": text})


def variable(**environment: str) -> Run:
    """Set variables of the environment and run a verb."""
    return chappe("queues", env=environment)


ROWS = [
    Row("config-no-toml", "no TOML", "`port = = 1`", "78", "chappe.toml cannot be read as TOML: Invalid value (at line 1, column 8)", toml("port = = 1")),
    Row("config-not-utf8", "no UTF-8", "a byte `ff`", "78", "chappe.toml cannot be read as TOML", toml(b"app = '\xff'")),
    Row("config-twice", "a setting twice", "`port` in two lines", "78", "chappe.toml cannot be read as TOML: Cannot overwrite a value", toml("port = 1\nport = 2")),
    Row("config-folder", "a folder in place of the file", "`CHAPPE_CONFIG=/tmp`", "78", "/tmp cannot be read as TOML", variable(CHAPPE_CONFIG="/tmp")),
    Row("config-missing", "a file that is not there", "`--config nothing.toml`", "78", "nothing.toml does not exist", chappe("--config", "nothing.toml", "queues")),
    Row("config-misspelled", "a misspelled setting", "`prot = 1`", "78", 'chappe.toml: no setting is called "prot", did you mean "port"?', toml("prot = 1")),
    Row("config-unknown", "a setting that is none", "`quite_other = 1`", "78", 'no setting is called "quite_other", known are: app, broker', toml("quite_other = 1")),
    Row("config-table", "a misspelled table", "`[pool.default]`", "78", 'no setting is called "pool", did you mean "pools"?', toml("[pool.default]")),
    Row("config-type", "a value of another type", '`port = "x"`', "78", "chappe.toml: port: Expected `int`, got `str`", toml('port = "x"')),
    Row("config-range", "a value out of its range", "`port = 70000`", "78", "chappe.toml: port must be within 0..65535", toml("port = 70000")),
    Row("config-nan", "a deadline that is no number", "`deadline = nan`", "78", "chappe.toml: deadline must be more than 0", toml("deadline = nan")),
    Row("config-infinite", "a grace without an end", "`grace = inf`", "78", "chappe.toml: grace must not be negative, and at most 86400 seconds", toml("grace = inf")),
    Row("config-body", "bodies that no frame can carry", "`max_body = 99999999999`", "78", "chappe.toml: max_body must be within 1..", toml("max_body = 99999999999")),
    Row("config-level", "a level that is none", '`log_level = "loud"`', "78", 'log_level "loud" must be one of debug, info, warning, error, critical', toml('log_level = "loud"')),
    Row("config-broker", "a broker that is not known", '`broker = "redis://localhost"`', "78",
        'broker "redis://localhost" is not known; write sqlite:///chappe.db, or with four slashes for an absolute path', toml('broker = "redis://localhost"')),
    Row("config-broker-options", "options of a broker that has none", '`broker = "sqlite:///chappe.db?mode=ro"`', "78", "is not known; write sqlite:///chappe.db",
        toml('broker = "sqlite:///chappe.db?mode=ro"')),
    Row("config-broker-nul", "a path with a NUL", '`broker = "sqlite:///a\\u0000b"`', "78", "is not known; write sqlite:///chappe.db", toml('broker = "sqlite:///a\\u0000b"')),
    Row("config-hosts", "a text in place of a list", '`allowed_hosts = "example.org"`', "78", "allowed_hosts: Expected `array`, got `str`", toml('allowed_hosts = "example.org"')),
    Row("config-host-address", "an address in place of a host", '`allowed_hosts = ["https://example.org"]`', "78",
        'allowed_hosts: "https://example.org" is no host; write names like queue.example.org', toml('allowed_hosts = ["https://example.org"]')),
    Row("config-every-host", "every host", '`allowed_hosts = ["*"]`', "78", 'allowed_hosts: "*" is no host', toml('allowed_hosts = ["*"]')),
    Row("config-every-origin", "every origin", '`allowed_origins = ["*"]`', "78", 'allowed_origins: "*" is no origin; write them like https://app.example.org',
        toml('allowed_origins = ["*"]')),
    Row("config-short-token", "a token that can be guessed", '`token = "short"`', "78", "the token is shorter than 16 characters; make one with: python -c",
        toml('token = "short"', "run")),
    Row("config-spaced-token", "a token that no header can carry", '`token = "a token with spaces in it"`', "78", "the token has characters that no header can carry",
        toml('token = "a token with spaces in it"', "gateway")),
    Row("config-pool-setting", "a misspelled setting of a pool", "`process = 1` in `[pools.a]`", "78",
        'chappe.toml: pools.a: no setting is called "process", did you mean "processes"?', toml("[pools.a]\nprocess = 1")),
    Row("config-pool-empty", "a pool without slots", "`concurrency = 0`", "78", "chappe.toml: pools.a: concurrency must be within 1..10000", toml("[pools.a]\nconcurrency = 0")),
    Row("config-pool-huge", "a billion processes", "`processes = 1000000000`", "78", "chappe.toml: pools.a: processes must be within 0..1000",
        toml("[pools.a]\nprocesses = 1000000000", "run")),
    Row("config-pool-nan", "an age that is no number", "`max_age = nan`", "78", "chappe.toml: pools.a: max_age must be more than 0, and finite", toml("[pools.a]\nmax_age = nan")),
    Row("config-pool-name", "a pool whose name cannot be written everywhere", '`[pools."a b"]`', "78", 'chappe.toml: pools: "a b" is no name for a pool', toml('[pools."a b"]')),
    Row("config-pool-queue", "a pool for a queue that is none", '`queues = ["nobody"]`', "78",
        'no queue fits "nobody"; this application serves: orders, parcels, shop.on.sold…a-1 cannot run with this configuration',
        chappe("run", "--no-gateway", "--no-scheduler", files={"chappe.toml": '[pools.a]\nprocesses = 1\nqueues = ["nobody"]'}, makes=("chappe.db",)), "`chappe run` ends, and does not try again"),
    Row("config-variable", "a variable of another type", "`CHAPPE_PORT=x`", "78", "CHAPPE_PORT: port: Expected `int`, got `str`", variable(CHAPPE_PORT="x")),
    Row("config-plain-variable", "a variable that others set", "`PORT=-1`", "78", "PORT: port must be within 0..65535", variable(CHAPPE_PORT="", PORT="-1")),
    Row("config-misspelled-variable", "a misspelled variable", "`CHAPPE_LOG_LEVL=info`", "78", "CHAPPE_LOG_LEVL: no such variable is known, did you mean CHAPPE_LOG_LEVEL?",
        variable(CHAPPE_LOG_LEVL="info")),
    Row("config-pools-variable", "pools in the environment", "`CHAPPE_POOLS=a`", "78", "CHAPPE_POOLS: it is declared in chappe.toml, as a table", variable(CHAPPE_POOLS="a")),
]  # fmt: skip
