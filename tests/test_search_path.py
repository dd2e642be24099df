"""A project's own files never take the place of the standard library's."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from chappe.search_path import add_project_folder, child_command

LIBRARY = os.path.dirname(os.__file__)
SHADOWS = ("secrets", "email", "logging", "queue", "asyncio", "platform", "calendar", "token", "random", "socket", "signal")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with an application beside files that are named like modules of the standard library."""
    (tmp_path / "shop.py").write_text("from chappe import App\nimport secrets\nsecrets.token_hex\napp = App('shop')\n")
    for name in SHADOWS:
        (tmp_path / f"{name}.py").write_text("raise RuntimeError(f'{__file__} was taken for the library')\n")
    return tmp_path


@pytest.mark.parametrize(
    "command",
    [
        (sys.executable, "-m", "chappe"),
        (sys.executable, "-X", "utf8", "-mchappe"),
        (str(Path(sys.executable).with_name("chappe")),),
        tuple(child_command(())),
    ],
    ids=["python -m", "python -X -m", "the script", "a child"],
)
def test_a_project_with_a_secrets_py_is_found_and_takes_nothings_place(project: Path, command: tuple[str, ...]) -> None:
    done = subprocess.run([*command, "-A", "shop:app", "openapi"], cwd=project, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("given", [".", "{}", "{}/lib:.", ":{}"])
@pytest.mark.parametrize(
    "command", [(sys.executable, "-m", "chappe"), (str(Path(sys.executable).with_name("chappe")),)], ids=["-m", "script"]
)
def test_pythonpath_names_more_folders_and_not_another_library(project: Path, command: tuple[str, ...], given: str) -> None:
    (project / "lib").mkdir()
    (project / "lib" / "queue.py").write_text("raise RuntimeError('taken for the library')\n")
    (project / "lib" / "tools.py").write_text("")
    (project / "shop.py").write_text("from chappe import App\nimport secrets\nsecrets.token_hex\nimport lib.tools\napp = App('shop')\n")
    done = subprocess.run(
        [*command, "-A", "shop:app", "openapi"], cwd=project, capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, "PYTHONPATH": given.format(project)},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def test_files_that_are_named_like_what_an_engine_needs_are_not_taken_for_it(project: Path) -> None:
    for name in ("pika", "psycopg"):
        (project / f"{name}.py").write_text("raise RuntimeError('taken for what is installed')\n")
    text = (
        "from chappe.cli.loading import find_app\nfrom chappe.settings import Settings\n"
        "find_app(Settings(app='shop:app', broker='amqp://localhost', store='postgresql://localhost/x'))\nimport pika, psycopg\n"
    )
    subprocess.run([sys.executable, "-P", "-c", text], cwd=project, timeout=60, check=True)


def test_a_file_that_cannot_be_meant_is_named_with_the_remedy(project: Path) -> None:
    (project / "shop.py").write_text("from calendar import Room\n")
    command = [*child_command(("-A", "shop:app", "openapi"))]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 78
    assert f"{project / 'calendar.py'} has the name of a module of the standard library, which is found first: rename it" in done.stderr


def test_what_a_handler_starts_keeps_pythons_own_order() -> None:
    assert "PYTHONSAFEPATH" not in child_command(())
    assert child_command(("worker", "-Q", "x"))[1:] == ["-P", "-m", "chappe", "worker", "-Q", "x"]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (["/lib.zip", LIBRARY, f"{LIBRARY}/lib-dynload", "/site"], ["/lib.zip", LIBRARY, f"{LIBRARY}/lib-dynload", "/project", "/site"]),
        (["/script", LIBRARY, "/site"], ["/script", LIBRARY, "/project", "/site"]),
        (["/elsewhere"], ["/elsewhere", "/project"]),
        (["", LIBRARY], ["", LIBRARY]),
        (["/project", LIBRARY], ["/project", LIBRARY]),
    ],
)
def test_the_project_stands_between_the_library_and_what_is_installed(path: list[str], expected: list[str]) -> None:
    add_project_folder("/project", path)
    assert path == expected
