"""The settings: flag over environment over chappe.toml over default."""

from pathlib import Path
from typing import Any

import pytest

from chappe.errors import InvalidSettings
from chappe.settings import Pool, Settings, load


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    return tmp_path / "chappe.toml"


def test_without_anything_the_defaults_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load(environment={}) == Settings()
    assert Settings().path == Path("chappe.db")
    assert Settings(broker="sqlite:////var/lib/chappe.db").path == Path("/var/lib/chappe.db")


def test_each_source_gives_way_to_the_one_before_it(toml: Path) -> None:
    toml.write_text("port = 1001\n")
    environment = {"CHAPPE_PORT": "1003", "PORT": "1002"}
    assert load({"port": 1004}, environment, toml).port == 1004
    assert load({"port": None}, environment, toml).port == 1003
    assert load({}, {"PORT": "1002"}, toml).port == 1002
    assert load({}, {}, toml).port == 1001
    toml.write_text("")
    assert load({}, {}, toml).port == 7070


def test_chappe_toml_beside_you_is_read_and_chappe_config_names_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("chappe.toml").write_text("port = 1\n")
    Path("other.toml").write_text("port = 2\n")
    assert load(environment={}).port == 1
    assert load(environment={"CHAPPE_CONFIG": "other.toml"}).port == 2


def test_a_file_that_was_named_must_exist_and_be_toml(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match=r"nowhere\.toml does not exist"):
        load({}, {"CHAPPE_CONFIG": str(tmp_path / "nowhere.toml")})
    broken = tmp_path / "broken.toml"
    broken.write_text("port = = 3")
    with pytest.raises(InvalidSettings, match="cannot be read as TOML"):
        load({}, {}, broken)
    broken.write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidSettings, match="cannot be read as TOML"):
        load({}, {}, broken)


def test_an_unknown_name_is_refused_with_its_source_and_the_known_ones(toml: Path) -> None:
    toml.write_text("prot = 1\n")
    with pytest.raises(InvalidSettings, match=r'chappe\.toml: no setting is called "prot", did you mean "port"'):
        load({}, {}, toml)
    toml.write_text("quite_other = 1\n")
    with pytest.raises(InvalidSettings, match=r'chappe\.toml: no setting is called "quite_other", known are: app, broker'):
        load({}, {}, toml)
    with pytest.raises(InvalidSettings, match='the command line: no setting is called "prot"'):
        load({"prot": 1}, {}, None)


def test_other_variables_of_the_environment_are_none_of_ours() -> None:
    assert load({}, {"CHAPPE_READY_FD": "3", "CHAPPE_UNHEARD_OF": "x", "HOME": "/"}).port == 7070


def test_an_empty_variable_is_as_good_as_none() -> None:
    found = load({}, {"CHAPPE_APP": "", "CHAPPE_TOKEN": "", "CHAPPE_PORT": "", "PORT": "", "CHAPPE_ALLOWED_HOSTS": ""})
    assert found == Settings()


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"CHAPPE_PORT": "many"}, "CHAPPE_PORT: port: "),
        ({"PORT": "x"}, "PORT: port: "),
        ({"CHAPPE_GRACE": "soon"}, "CHAPPE_GRACE: grace: "),
        ({"CHAPPE_MAX_BODY": "1.5"}, "CHAPPE_MAX_BODY: max_body: "),
        ({"CHAPPE_PORT": "70000"}, "port must be within"),
        ({"PORT": "70000"}, "PORT: port must be within"),
        ({"CHAPPE_GRACE": "-1"}, "CHAPPE_GRACE: grace must not be negative"),
        ({"CHAPPE_GRACE": "nan"}, "CHAPPE_GRACE: grace must not be negative"),
        ({"CHAPPE_GRACE": "inf"}, "at most 86400 seconds"),
        ({"CHAPPE_DEADLINE": "0"}, "CHAPPE_DEADLINE: deadline must be more than 0"),
        ({"CHAPPE_DEADLINE": "nan"}, "CHAPPE_DEADLINE: deadline must be more than 0"),
        ({"CHAPPE_MAX_BODY": "99999999999999999999"}, "CHAPPE_MAX_BODY: max_body must be within 1.."),
        ({"CHAPPE_BROKER": "sqlite:///chappe.db?mode=ro"}, "CHAPPE_BROKER: broker"),
        ({"CHAPPE_BROKER": "sqlite:///a\nb"}, "is not known"),
        ({"CHAPPE_BROKER": "sqlite:////data/"}, "is not known"),
        ({"CHAPPE_ALLOWED_HOSTS": "https://a.example"}, 'CHAPPE_ALLOWED_HOSTS: allowed_hosts: "https://a.example" is no host'),
        ({"CHAPPE_ALLOWED_HOSTS": "*"}, "is no host"),
        ({"CHAPPE_ALLOWED_ORIGINS": "a.example"}, 'allowed_origins: "a.example" is no origin; write them like https://'),
        ({"CHAPPE_ALLOWED_ORIGINS": "*"}, "is no origin"),
        ({"CHAPPE_LOG_LEVL": "info"}, "CHAPPE_LOG_LEVL: no such variable is known, did you mean CHAPPE_LOG_LEVEL?"),
        ({"CHAPPE_BROKER": "redis://x"}, 'broker "redis://x" is not known; write sqlite:///chappe.db'),
        ({"CHAPPE_BROKER": "sqlite:///"}, "is not known"),
    ],
)
def test_a_wrong_value_is_refused_with_where_it_came_from(environment: dict[str, str], said: str) -> None:
    with pytest.raises(InvalidSettings) as caught:
        load({}, environment)
    assert said in str(caught.value)


def test_a_wrong_value_names_the_source_that_won(toml: Path) -> None:
    toml.write_text("port = 5\n")
    with pytest.raises(InvalidSettings, match="^the command line: port"):
        load({"port": "x"}, {"CHAPPE_PORT": "6"}, toml)


def test_lists_in_the_environment_are_separated_by_commas() -> None:
    found = load({}, {"CHAPPE_ALLOWED_HOSTS": "a.example,b.example", "CHAPPE_ALLOWED_ORIGINS": "https://a.example"})
    assert found.allowed_hosts == ("a.example", "b.example")
    assert found.allowed_origins == ("https://a.example",)


def test_pools_are_tables_of_the_file(toml: Path) -> None:
    toml.write_text('[pools.push]\nqueues = ["push.*"]\nprocesses = 3\n[pools.slow]\nmax_age = 60\n')
    assert load({}, {}, toml).pools == {"push": Pool(queues=("push.*",), processes=3), "slow": Pool(max_age=60.0)}


@pytest.mark.parametrize(
    ("pool", "said"),
    [
        ('queus = ["a"]', "queus"),
        ("processes = -1", "processes must be"),
        ("process = 1", 'pools.push: no setting is called "process", did you mean "processes"?'),
        ("processes = 1000000000", "pools.push: processes must be within"),
        ("concurrency = 0", "concurrency"),
        ("max_age = nan", "max_age must be"),
        ('queues = ["a,b"]', "without a comma"),
        ('queues = [""]', "without a comma"),
        ("max_messages = 0", "max_messages"),
        ('max_age = "x"', "max_age"),
        ('processes = "3..1"', 'processes must be within 0..1000: a number, "min..max" or "auto"'),
        ('processes = "1..1001"', "processes must be within"),
        ('processes = "some"', "processes must be within"),
        ("processes = 1.5", "processes"),
        ("nice = 20", "nice must be within -20..19"),
        ("memory_limit = 0", "memory_limit must be more than 0"),
        ("start_retries = 0", "start_retries must be within"),
        ("max_wait = 0", "max_wait must be more than 0"),
        ('environment = { "A B" = "c" }', "environment"),
        ('environment = { CHAPPE_TOKEN = "c" }', "environment"),
        ('log = ""', "log must name a file"),
    ],
)
def test_a_wrong_pool_is_refused_naming_what_is_wrong(toml: Path, pool: str, said: str) -> None:
    toml.write_text(f"[pools.push]\n{pool}\n")
    with pytest.raises(InvalidSettings, match=r"chappe\.toml") as caught:
        load({}, {}, toml)
    assert said in str(caught.value)


@pytest.mark.parametrize(("given", "bounds"), [(0, (0, 0)), (3, (3, 3)), ("3", (3, 3)), ("2..20", (2, 20)), ("0..0", (0, 0))])
def test_the_processes_of_a_pool_are_a_number_or_two(given: int | str, bounds: tuple[int, int]) -> None:
    assert Pool(processes=given).bounds == bounds


@pytest.mark.parametrize(
    ("table", "said"),
    [("cpu = 0", "governor: cpu must be within"), ("slow = 1", "governor: slow must be within"), ("cp = 80", 'did you mean "cpu"?'), ('probe = "ftp://x"', "governor: probe"),
     ('probe = "http://user:secret@host/"', "governor: probe")],
)  # fmt: skip
def test_a_wrong_governor_is_refused_naming_what_is_wrong(toml: Path, table: str, said: str) -> None:
    toml.write_text(f"[governor]\n{table}\n")
    with pytest.raises(InvalidSettings, match=r"chappe\.toml: governor") as caught:
        load({}, {}, toml)
    assert said in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("name", ["a b", "", "a/b", "a\\tb"])
def test_a_pool_has_a_name_that_can_be_written_everywhere(toml: Path, name: str) -> None:
    toml.write_text(f'[pools."{name}"]\n')
    with pytest.raises(InvalidSettings, match="is no name for a pool"):
        load({}, {}, toml)


def test_hosts_and_origins_may_have_ports_and_stand_in_a_list_with_spaces() -> None:
    found = load({}, {"CHAPPE_ALLOWED_HOSTS": " a.example:8443, [fd00::1] ,", "CHAPPE_ALLOWED_ORIGINS": "https://a.example:1/"})
    assert found.allowed_hosts == ("a.example:8443", "[fd00::1]")
    assert found.allowed_origins == ("https://a.example:1/",)


def test_the_token_is_not_shown_by_mistake() -> None:
    found: Any = load({}, {"CHAPPE_TOKEN": "a-very-secret-token-of-ours"})
    assert found.token == "a-very-secret-token-of-ours"


@pytest.mark.parametrize(
    ("broker", "taken"),
    [
        ("amqp://u:p@127.0.0.1/", True), ("amqp://localhost:5673/v?heartbeat=2", True), ("amqp://u:p@[::1]:5672/", True),
        ("amqp://127.0.0.1:1,localhost:2/", True), ("amqps://u:p@rabbit.example.org/", True),
        ("amqp://u:p@rabbit.example.org/", False), ("amqp://u:p@10.0.0.5:5672", False), ("amqp://127.0.0.1,rabbit/", False),
        ("amqp://u:localhost@rabbit/", False), ("amqp://rabbit/x@localhost", False), ("amqp://localhost.example.org/", False),
    ],
)  # fmt: skip
def test_what_would_be_sent_in_the_clear_to_another_machine_is_refused_unless_it_is_said(broker: str, taken: bool) -> None:
    said = {"broker": broker, "store": "postgresql://localhost/x"}
    assert load({**said, "allow_plain_amqp": True}, {}).broker == broker
    if taken:
        assert load(said, {}).broker == broker
    else:
        with pytest.raises(InvalidSettings, match="in the clear.*allow_plain_amqp"):
            load(said, {})


@pytest.mark.parametrize(
    ("broker", "engine"),
    [
        ("sqlite:///chappe.db", "is_file"), ("postgresql://u:p@h/d", "is_postgres"), ("postgres://h:5433,g/d?sslmode=require", "is_postgres"),
        ("postgresql:///d?host=/run/postgresql", "is_postgres"), ("amqps://u:p@h/", "is_rabbitmq"),
    ],
)  # fmt: skip
def test_the_url_of_the_broker_says_which_engine_it_is(broker: str, engine: str) -> None:
    found = load({"broker": broker, "store": "postgresql://h/d" if broker.startswith("amqp") else None}, {})
    assert [name for name in ("is_file", "is_postgres", "is_rabbitmq") if getattr(found, name)] == [engine]


def test_postgresql_needs_no_store_and_refuses_one_that_is_another_place() -> None:
    assert load({"broker": "postgresql://h/d"}, {}).store is None
    assert load({"broker": "postgresql://h/d", "store": "postgres://h/d"}, {}).is_postgres
    with pytest.raises(InvalidSettings, match="names another place.*leave out store"):
        load({"broker": "postgresql://h/d", "store": "postgresql://h/other"}, {})


def test_database_url_is_the_applications_own_beside_postgresql_and_the_store_beside_rabbitmq() -> None:
    environment = {"DATABASE_URL": "postgresql://h/own", "CHAPPE_BROKER": "postgresql://h/queues"}
    assert (load({}, environment).broker, load({}, environment).store) == ("postgresql://h/queues", None)
    assert load({}, {**environment, "CHAPPE_BROKER": "amqps://h/"}).store == "postgresql://h/own"
    assert load({}, {"DATABASE_URL": "postgresql://h/own"}).is_file, "it is never the broker unless it is said to be"


@pytest.mark.parametrize(
    "broker", ["postgresql://", "postgresql:u:secret@h/d", "postgres//u:secret@h/d", "postgresql://u:se cret@h/d", "pgsql://u:secret@h/"]
)
def test_a_url_of_postgresql_that_cannot_be_read_is_refused_without_showing_it(broker: str) -> None:
    with pytest.raises(InvalidSettings, match="broker.* is not known; write sqlite:///") as refused:
        load({"broker": broker}, {})
    assert "cret" not in str(refused.value)


def test_what_processes_of_a_host_share_is_named_by_the_application_and_the_broker_but_not_by_the_password() -> None:
    def path(app: str | None, broker: str, **environment: str) -> Path:
        return load({"app": app, "broker": broker}, {"STATE_DIRECTORY": "/var/lib/shop:/other", **environment}).path

    first = path("shop.tasks:app", "postgresql://u:p@h/d")
    assert first.parent == Path("/var/lib/shop")
    assert path("shop.tasks", "postgres://other:new@h/d") == first
    assert (
        len({first, path("blog:app", "postgresql://h/d"), path("shop.tasks", "postgresql://h/staging"), path(None, "postgresql://h/d")})
        == 4
    )
    assert path("shop.tasks", "postgresql://h/d", CHAPPE_STATE_DIR="/srv/state").parent == Path("/srv/state")
    assert path("shop.tasks", "sqlite:////data/chappe.db") == Path("/data/chappe.db"), "a file has them beside it"


def test_without_a_folder_of_state_it_is_that_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load({"broker": "postgresql://h/d"}, {})
    monkeypatch.setenv("XDG_STATE_HOME", "/home/cy/state")
    assert settings.path.parent == Path("/home/cy/state/chappe")
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", "/home/cy")
    assert settings.path.parent == Path("/home/cy/.local/state/chappe")
