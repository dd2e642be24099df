"""`chappe doctor`."""

from pathlib import Path

from .conftest import Chappe


def test_a_healthy_machine_has_nothing_wrong(chappe: Chappe) -> None:
    chappe("send", "order", "customer=Ada")
    found = {row["check"]: row for row in chappe("doctor", "--json").json}
    assert set(found) == {"python", "sqlite", "disk", "sync", "file", "limits", "bind", "application"}
    assert [row for row in found.values() if row["verdict"] == "wrong"] == []
    assert found["application"]["text"] == "shop:app: 3 commands, 3 queues"
    assert "is whole" in found["file"]["text"]


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
