"""There is one owner of a file, and the operating system says when it is gone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from chappe.engines.file.owner import Ownership, socket_path
from chappe.errors import AlreadyOwned, UnsafeStorage
from tests.waiting import until

HOLDER = """
import sys, time
from pathlib import Path
from chappe.engines.file.owner import Ownership
held = Ownership(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


def test_a_second_owner_is_refused_and_told_who_the_first_is(tmp_path: Path) -> None:
    with Ownership(tmp_path / "chappe.db"), pytest.raises(AlreadyOwned, match=str(os.getpid())):
        Ownership(tmp_path / "chappe.db")


def test_a_killed_owner_frees_the_file(tmp_path: Path) -> None:
    path = tmp_path / "chappe.db"
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    holder.stdout.readline()
    with pytest.raises(AlreadyOwned, match=str(holder.pid)):
        Ownership(path)
    holder.kill()
    holder.wait()
    holder.stdout.close()

    def free() -> bool:
        with Ownership(path):
            return True

    assert until(free)


def test_a_symbolic_link_in_the_place_of_the_lock_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "chappe.db.lock").symlink_to(victim)
    with pytest.raises(UnsafeStorage, match="symbolic link"):
        Ownership(tmp_path / "chappe.db")
    assert victim.read_text() == "precious"


def test_a_long_path_gets_a_socket_in_a_private_folder(tmp_path: Path) -> None:
    short, long = socket_path(Path("/tmp/chappe.db")), socket_path(tmp_path / ("d" * 120) / "chappe.db")
    assert short == Path("/tmp/chappe.db.sock")
    assert len(os.fsencode(long)) <= 100
    assert long.parent.stat().st_mode & 0o777 == 0o700
    assert long == socket_path(tmp_path / ("d" * 120) / "chappe.db")


def test_a_folder_for_sockets_that_others_may_enter_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    long = tmp_path / ("d" * 120) / "chappe.db"
    folder = socket_path(long).parent
    folder.chmod(0o755)
    with pytest.raises(UnsafeStorage, match="private folder"):
        socket_path(long)
    folder.rmdir()
    folder.symlink_to(tmp_path)
    with pytest.raises(UnsafeStorage, match="private folder"):
        socket_path(long)
