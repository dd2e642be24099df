"""The means by which planted faults reach other processes."""

import os
import subprocess
import sys

import pytest

from .planted import PLANTS, environment

pytestmark = pytest.mark.proof


def run(program: str, variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **variables}, capture_output=True, text=True, timeout=200, check=False
    )


@pytest.mark.parametrize("name", PLANTS)
def test_a_plant_can_be_planted_in_another_process(name: str) -> None:
    done = run("import chappe.cli, chappe.cli.processes; print('alive')", environment(name))
    assert (done.returncode, done.stdout.strip()) == (0, "alive"), done.stderr


def test_a_process_does_not_start_with_a_plant_that_is_not_known() -> None:
    done = run("print('alive')", {**environment(next(iter(PLANTS))), "CHAPPE_PLANT": "weeds"})
    assert done.returncode == 1
    assert "the plant 'weeds' cannot be planted" in done.stderr
    assert "alive" not in done.stdout


def test_no_process_has_a_plant_without_the_variable() -> None:
    done = run("import sys; print('tests.faults.planted' in sys.modules)", environment())
    assert done.stdout.strip() == "False"
