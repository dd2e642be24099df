"""The file and what lies beside it are of one user, and nobody else's link is followed."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from types import SimpleNamespace

import pytest

from chappe.engines.file.database import open_database
from chappe.engines.file.owner import socket_path
from chappe.engines.file.private_files import group_that_may_replace, keep_private, write_private
from chappe.errors import UnsafeStorage

STRANGER = 65534
NAMES = ["", "-wal", "-shm", "-journal", ".lock", ".reserve", ".processes"]
as_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can make files of another user")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "chappe.db"
    open_database(path).close()
    return path


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o666, 0o604, 0o777])
def test_a_file_that_others_may_read_is_closed_to_them(path: Path, mode: int, caplog: pytest.LogCaptureFixture) -> None:
    for name in NAMES:
        Path(f"{path}{name}").touch()
        Path(f"{path}{name}").chmod(mode)
    keep_private(path)
    assert {Path(f"{path}{name}").stat().st_mode & 0o077 for name in NAMES} == {0}
    assert len(caplog.records) == len(NAMES)


def test_opening_a_database_closes_it_to_others(path: Path) -> None:
    path.chmod(0o644)
    open_database(path).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_doctor_is_told_and_changes_nothing(path: Path) -> None:
    path.chmod(0o644)
    told: list[tuple[Path, int]] = []
    keep_private(path, lambda file, mode: told.append((file, mode)))
    assert told == [(path, 0o644)]
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


@as_root
@pytest.mark.parametrize("name", NAMES)
def test_a_file_of_another_user_is_refused_and_left(path: Path, name: str) -> None:
    planted = Path(f"{path}{name}")
    planted.touch()
    os.chown(planted, STRANGER, STRANGER)
    planted.chmod(0o666)
    with pytest.raises(UnsafeStorage, match="belongs to user 65534.*chown"):
        open_database(path)
    assert stat.S_IMODE(planted.stat().st_mode) == 0o666


@pytest.mark.parametrize("name", NAMES[1:])
def test_a_link_beside_the_file_is_refused_and_its_victim_is_untouched(path: Path, tmp_path: Path, name: str) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    Path(f"{path}{name}").unlink(missing_ok=True)
    Path(f"{path}{name}").symlink_to(victim)
    with pytest.raises(UnsafeStorage, match="symbolic link"):
        open_database(path)
    assert victim.read_text() == "precious"


@pytest.mark.parametrize("there", [True, False])
def test_a_link_in_the_place_of_the_database_in_a_shared_folder_is_refused(tmp_path: Path, there: bool) -> None:
    victim, shared = tmp_path / "victim", tmp_path / "shared"
    if there:
        victim.touch()
    shared.mkdir()
    shared.chmod(0o1777)
    (shared / "chappe.db").symlink_to(victim)
    with pytest.raises(UnsafeStorage, match="symbolic link that another user could have made"):
        open_database(shared / "chappe.db")
    assert victim.exists() is there
    assert not there or victim.stat().st_size == 0


def test_a_link_that_only_its_user_could_make_is_followed(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "chappe.db").symlink_to(tmp_path / "data" / "real.db")
    open_database(tmp_path / "chappe.db").close()
    assert (tmp_path / "data" / "real.db").stat().st_size > 0


def test_a_folder_in_which_everybody_can_replace_files_is_refused(path: Path) -> None:
    path.parent.chmod(0o777)
    with pytest.raises(UnsafeStorage, match="chmod o-w"):
        open_database(path)
    path.parent.chmod(0o1777)
    open_database(path).close()


@as_root
def test_a_folder_of_another_user_is_refused(path: Path) -> None:
    os.chown(path.parent, STRANGER, STRANGER)
    with pytest.raises(UnsafeStorage, match="belongs to user 65534"):
        open_database(path)


@pytest.mark.parametrize(
    ("mode", "group", "members", "told"),
    [
        (0o775, "deploy", ["ada"], "deploy"),
        (0o2775, "deploy", [], "deploy"),
        (0o775, "me", [], None),
        (0o775, "me", ["me"], None),
        (0o775, "me", ["me", "ada"], "me"),
        (0o755, "deploy", ["ada"], None),
        (0o1775, "deploy", ["ada"], None),
        (0o775, None, [], "without a name"),
    ],
)
def test_a_group_whose_members_can_replace_the_file_is_told_unless_it_is_the_users_own(
    path: Path, monkeypatch: pytest.MonkeyPatch, mode: int, group: str | None, members: list[str], told: str | None
) -> None:
    def found(identity: int) -> SimpleNamespace:
        if group is None:
            raise KeyError(identity)
        return SimpleNamespace(gr_name=group, gr_mem=members)

    monkeypatch.setattr("grp.getgrgid", found)
    monkeypatch.setattr("pwd.getpwuid", lambda _: SimpleNamespace(pw_name="me"))
    path.parent.chmod(mode)
    assert group_that_may_replace(path) == (str(path.parent.stat().st_gid) if told == "without a name" else told)


@pytest.mark.parametrize("place", ["chappe.db.processes", "chappe.db.processes.new"])
def test_a_file_is_written_in_place_of_a_planted_link(tmp_path: Path, place: str) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / place).symlink_to(victim)
    write_private(tmp_path / "chappe.db.processes", "ours")
    assert victim.read_text() == "precious"
    written = tmp_path / "chappe.db.processes"
    assert (written.read_text(), written.is_symlink(), stat.S_IMODE(written.stat().st_mode)) == ("ours", False, 0o600)


@as_root
@pytest.mark.parametrize("what", ["folder", "file", "link"])
def test_a_folder_for_sockets_that_another_user_made_is_refused_with_what_to_do(
    tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    planted = tmp_path / f"chappe-{os.getuid()}"
    {"folder": planted.mkdir, "file": planted.touch, "link": lambda: planted.symlink_to(tmp_path)}[what]()
    os.chown(planted, STRANGER, STRANGER, follow_symlinks=False)
    with pytest.raises(UnsafeStorage, match="private folder.*TMPDIR"):
        socket_path(tmp_path / ("d" * 120) / "chappe.db")
