"""`chappe export systemd` writes a unit that systemd takes (row D30)."""

from __future__ import annotations

import configparser
import shutil
import subprocess
from pathlib import Path

import pytest

from chappe.cli.exporting import unit
from chappe.errors import InvalidSettings
from chappe.settings import Settings

from .conftest import Chappe


def service(text: str) -> dict[str, str]:
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[assignment]
    parser.read_string(text)
    return dict(parser["Service"])


def test_the_unit_runs_this_application_in_this_folder(chappe: Chappe, tmp_path: Path) -> None:
    found = service(chappe("export", "systemd", "--user", "www-data").out)
    assert found["WorkingDirectory"] == str(tmp_path)
    assert found["ExecStart"].endswith(" -A shop:app run")
    assert (found["User"], found["EnvironmentFile"], found["TimeoutStopSec"]) == ("www-data", "-/etc/shop.env", "40")
    assert "StateDirectory" not in found


def test_with_a_server_it_has_a_folder_of_state_and_longer_graces_take_longer() -> None:
    found = service(unit(Settings(broker="postgresql://h/d", grace=60.0), ["/bin/chappe"], "shop", "me", Path("/srv/shop")))
    assert (found["StateDirectory"], found["TimeoutStopSec"]) == ("shop", "75")


def test_what_has_a_meaning_for_systemd_is_quoted() -> None:
    found = service(unit(Settings(), ["/opt/a b/chappe", "-A", "x$y"], "shop", "me", Path("/srv/100%")))
    assert found["ExecStart"] == '"/opt/a b/chappe" -A x$$y run'
    assert found["WorkingDirectory"] == "/srv/100%%"


@pytest.mark.parametrize(("name", "user"), [("a b", "me"), ("shop", "me\nExecStart=/bin/sh"), ("", "me")])
def test_what_no_unit_can_say_is_refused(name: str, user: str) -> None:
    with pytest.raises(InvalidSettings, match="cannot be written in a unit"):
        unit(Settings(), ["chappe"], name, user, Path("/srv"))


def test_systemd_finds_no_fault(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not here")
    file = tmp_path / "shop.service"
    file.write_text(unit(Settings(broker="postgresql://h/d"), ["/bin/true", "-A", "shop:app"], "shop", "root", tmp_path))
    checked = subprocess.run([analyze, "verify", "--man=no", str(file)], capture_output=True, text=True, timeout=200, check=False)
    assert "shop.service" not in checked.stderr, checked.stderr
