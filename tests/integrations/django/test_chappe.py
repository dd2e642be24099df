"""`manage.py chappe …` is the command line of Chappe, with the application and the settings of the project."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from chappe.integrations.django.application import environment, given

MANAGE = Path(__file__).resolve().parents[3] / "examples" / "triggers" / "manage.py"


def run(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("CHAPPE_", "DJANGO_", "PYTHONPATH"))}
    return subprocess.run(
        [sys.executable, str(MANAGE), "chappe", *arguments], cwd=folder, capture_output=True, text=True, timeout=120, check=False,
        env={**kept, "TRIGGERS_FOLDER": str(folder), **variables},
    )  # fmt: skip


def test_it_knows_the_application_and_the_broker_of_the_project_from_any_folder(tmp_path: Path) -> None:
    sent = run(tmp_path, "send", "publish.all")
    assert sent.returncode == 0, sent.stderr
    assert (tmp_path / "chappe.db").exists()
    queues = json.loads(run(tmp_path, "queues", "--json").stdout)
    assert {queue["name"]: queue["ready"] for queue in queues}["triggers.default"] == 1


def test_the_environment_goes_before_the_settings_of_the_project_and_exit_codes_are_chappes_own(tmp_path: Path) -> None:
    refused = run(tmp_path, "queues", CHAPPE_BROKER=f"sqlite:///{tmp_path}/elsewhere.db")
    assert refused.returncode == 1
    assert "elsewhere.db does not exist yet" in refused.stderr


@pytest.mark.parametrize("wrong", ["shop.tasks:app", {"app": "shop.tasks:app"}, {1: "x"}, None])
def test_a_setting_that_cannot_be_meant_is_refused(wrong: object) -> None:
    with override_settings(CHAPPE=wrong), pytest.raises(ImproperlyConfigured, match="CHAPPE must be a dict"):
        given()


def test_what_the_project_sets_has_the_names_of_chappe_toml() -> None:
    with override_settings(CHAPPE={"APP": "a:b", "BROKER": "sqlite:///x.db", "DEADLINE": 2.5}):
        assert environment() == {"broker": "sqlite:///x.db", "deadline": "2.5"}
