"""`chappe doctor`."""

import os
import socket
from pathlib import Path

import pytest

from .conftest import Chappe


def test_a_healthy_machine_has_nothing_wrong(chappe: Chappe) -> None:
    chappe("send", "order", "customer=Ada")
    found = {row["check"]: row for row in chappe("doctor", "--json").json}
    assert set(found) == {"python", "sqlite", "disk", "sync", "file", "limits", "bind", "application"}
    assert [row for row in found.values() if row["verdict"] == "wrong"] == []
    assert found["application"]["text"] == "shop:app: 3 commands, 3 queues"
    assert "is whole" in found["file"]["text"]


def test_a_postgresql_that_is_named_but_not_used_is_told_with_what_to_set(chappe: Chappe) -> None:
    found = {
        row["check"]: row
        for row in chappe("doctor", "--json", env={"CHAPPE_APP": "shop:app", "DATABASE_URL": "postgresql://u:geheimnis@h/d"}).json
    }
    assert found["broker"]["verdict"] == "ok" and "set CHAPPE_BROKER" in found["broker"]["text"]
    assert "geheim" not in str(found)


def test_before_the_first_message_there_is_no_file_and_doctor_makes_none(chappe: Chappe, tmp_path: Path) -> None:
    assert "does not exist yet" in chappe("doctor").out
    assert not (tmp_path / "chappe.db").exists()


def test_what_is_wrong_is_1_with_the_remedy(chappe: Chappe) -> None:
    ended = chappe("doctor", "--json", env={"CHAPPE_APP": "nowhere:app", "CHAPPE_HOST": "0.0.0.0"}, code=1)
    found = {row["check"]: row for row in ended.json}
    assert found["application"]["verdict"] == "wrong" and 'no module is called "nowhere"' in found["application"]["text"]
    assert found["bind"]["verdict"] == "wrong" and "CHAPPE_TOKEN" in found["bind"]["text"]


def test_a_damaged_file_is_found(chappe: Chappe, tmp_path: Path) -> None:
    (tmp_path / "chappe.db").write_bytes(b"this is no database, but long enough to look like a file" * 100)
    ended = chappe("doctor", "--json", code=1)
    assert {row["check"]: row["verdict"] for row in ended.json}["file"] == "wrong"
    assert (tmp_path / "chappe.db").read_bytes().startswith(b"this is no database")


def doctors(chappe: Chappe, *flags: str, **variables: str) -> dict[str, str]:
    """Return what is wrong, by check."""
    return {name: row["text"] for name, row in checks(chappe, *flags, **variables).items() if row["verdict"] == "wrong"}


def checks(chappe: Chappe, *flags: str, **variables: str) -> dict[str, dict[str, str]]:
    """Return what doctor says, by check."""
    rows = chappe(*flags, "doctor", "--json", env={"CHAPPE_APP": "shop:app", "CHAPPE_PORT": "0", **variables}, code=None).json
    return {row["check"]: row for row in rows}


def refusal(chappe: Chappe, *flags: str, **variables: str) -> str:
    """Return what `chappe run` says when it refuses to start."""
    ended = chappe(*flags, "run", env={"CHAPPE_APP": "shop:app", "CHAPPE_PORT": "0", **variables}, code=None)
    assert ended.code in (75, 78), ended.err
    return ended.err.removeprefix("chappe: ").strip()


@pytest.mark.parametrize(
    ("check", "variables", "text"),
    [
        ("file", {"CHAPPE_BROKER": "sqlite:////no/such/folder/x.db"}, "the folder /no/such/folder does not exist"),
        ("file", {"CHAPPE_BROKER": "sqlite:///shop.py/x.db"}, "the folder "),
        ("bind", {"CHAPPE_HOST": "0.0.0.0"}, "no token is set"),
        ("bind", {"CHAPPE_TOKEN": "short"}, "shorter than 16"),
        ("bind", {"CHAPPE_HOST": "198.51.100.7", "CHAPPE_TOKEN": "x" * 20}, "the gateway cannot listen on 198.51.100.7:0"),
        ("application", {"CHAPPE_APP": ""}, "no application is named"),
    ],
)
def test_doctor_tells_what_run_tells(chappe: Chappe, check: str, variables: dict[str, str], text: str) -> None:
    wrong = doctors(chappe, **variables)
    assert list(wrong) == [check] and text in wrong[check]
    assert refusal(chappe, **variables) == wrong[check]


def test_a_pool_that_would_serve_nothing_is_wrong(chappe: Chappe, tmp_path: Path) -> None:
    (tmp_path / "chappe.toml").write_text('[pools.slow]\nqueues = ["reports"]\n[pools.none]\nexclude = ["*"]\nprocesses = 0\n')
    wrong = doctors(chappe)
    assert list(wrong) == ["application"]
    assert wrong["application"].startswith('pools.slow: no queue fits "reports"; this application serves: ')


@pytest.mark.skipif(not Path("/proc/net/if_inet6").exists(), reason="this machine has no IPv6")
def test_every_address_of_ipv6_is_judged_as_run_takes_it(chappe: Chappe) -> None:
    with socket.create_server(("0.0.0.0", 0)) as taken:  # noqa: S104 - of IPv4, which is another place
        port = str(taken.getsockname()[1])
        found = checks(chappe, CHAPPE_HOST="::", CHAPPE_PORT=port, CHAPPE_TOKEN="x" * 20)["bind"]
    assert (found["verdict"], found["text"]) == ("ok", f"[::]:{port} with a token")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder to any group")
def test_a_folder_that_a_group_may_write_is_told(chappe: Chappe, tmp_path: Path) -> None:
    os.chown(tmp_path, -1, 65534)
    tmp_path.chmod(0o775)
    found = checks(chappe)["file"]
    assert found["verdict"] == "warning" and f"can replace files in {tmp_path}; if you do not trust them all" in found["text"]


def test_a_port_that_another_program_has_is_named_with_its_process_and_the_remedy(chappe: Chappe, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        wrong = doctors(chappe, CHAPPE_PORT=port)
        assert list(wrong) == ["bind"]
        assert wrong["bind"].startswith(f"the gateway cannot listen on 127.0.0.1:{port}: process {os.getpid()} (")
        assert "--port, CHAPPE_PORT, or port in chappe.toml" in wrong["bind"]
        assert refusal(chappe, CHAPPE_PORT=port) == wrong["bind"]
