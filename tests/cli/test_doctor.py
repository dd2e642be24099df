"""`noria doctor`."""

from pathlib import Path

from .conftest import Noria


def test_a_healthy_machine_has_nothing_wrong(noria: Noria) -> None:
    noria("send", "order", "customer=Ada")
    found = {row["check"]: row for row in noria("doctor", "--json").json}
    assert set(found) == {"python", "sqlite", "disk", "sync", "file", "limits", "bind", "application"}
    assert [row for row in found.values() if row["verdict"] == "wrong"] == []
    assert found["application"]["text"] == "shop:app: 3 commands, 3 queues"
    assert "is whole" in found["file"]["text"]


def test_before_the_first_message_there_is_no_file_and_doctor_makes_none(noria: Noria, tmp_path: Path) -> None:
    assert "does not exist yet" in noria("doctor").out
    assert not (tmp_path / "noria.db").exists()


def test_what_is_wrong_is_1_with_the_remedy(noria: Noria) -> None:
    ended = noria("doctor", "--json", env={"NORIA_APP": "nowhere:app", "NORIA_HOST": "0.0.0.0"}, code=1)
    found = {row["check"]: row for row in ended.json}
    assert found["application"]["verdict"] == "wrong" and 'no module is called "nowhere"' in found["application"]["text"]
    assert found["bind"]["verdict"] == "wrong" and "NORIA_TOKEN" in found["bind"]["text"]


def test_a_damaged_file_is_found(noria: Noria, tmp_path: Path) -> None:
    (tmp_path / "noria.db").write_bytes(b"this is no database, but long enough to look like a file" * 100)
    ended = noria("doctor", "--json", code=1)
    assert {row["check"]: row["verdict"] for row in ended.json}["file"] == "wrong"
    assert (tmp_path / "noria.db").read_bytes().startswith(b"this is no database")
