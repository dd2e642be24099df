"""The documentation is true: each of its blocks runs, and its tables say what the code does (row D27)."""

import asyncio
import configparser
import importlib
import inspect
import json
import os
import re
import runpy
import signal
import socket
import subprocess
import sys
import time
import tomllib
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from markdown_it import MarkdownIt

from chappe import App, Command, Pool, Settings, errors
from chappe.errors import ChappeError, Verdict
from chappe.messages.capabilities import Capabilities
from chappe.settings import load
from chappe.testing import Trial
from chappe.web.gateway import gateway
from chappe.web.problems import _STATUS

ROOT = Path(__file__).resolve().parents[1]
TOP = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")
PAGES = sorted([*TOP, *(str(p.relative_to(ROOT)) for p in (ROOT / "docs").rglob("*.md") if "_build" not in p.parts)])

# Languages of blocks that say nothing a machine could do.
PROSE = {
    "text": "drawings, formats and trees",
    "{toctree}": "Sphinx reads it in `make docs`",
}
# Commands that a block may show without running here, and why.
EXEMPT = {
    "make demo": "30 s of the channel manager, whose rows are tests of their own (tests/examples)",
    "make check test": "it would run itself",
    "make setup": "it makes the environment that these tests run in",
    "make docs": "installs Sphinx; it is run beside the tests",
    "pip install .": "Chappe is installed in this environment; another one would need the network",
}
READY = "processes are ready"


class Block(NamedTuple):
    """One fenced block of a page."""

    page: str
    line: int
    language: str
    text: str

    @property
    def file(self) -> tuple[str, bool] | None:
        """The file that the first line names, as in `# shop.py` or `# shop.py, continued`."""
        found = re.match(r"# ([\w./-]+\.(?:py|toml|ini|service|conf))(, continued)?\n", self.text)
        return (found[1], bool(found[2])) if found else None


def blocks_of(page: str) -> list[Block]:
    tokens = MarkdownIt().parse((ROOT / page).read_text())
    return [Block(page, t.map[0] + 1 if t.map else 0, t.info.strip(), t.content) for t in tokens if t.type == "fence"]


BLOCKS = [block for page in PAGES for block in blocks_of(page)]


class Reader:
    """Somebody who follows one page in an empty folder, from its first block to its last."""

    def __init__(self, page: str, folder: Path) -> None:
        self.folder = folder
        self.module = types.ModuleType("page_" + re.sub(r"\W", "_", page))
        sys.modules[self.module.__name__] = self.module
        self.running: subprocess.Popen[bytes] | None = None
        self.log = folder.parent / "run.log"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = str(probe.getsockname()[1])
        kept = {k: v for k, v in os.environ.items() if not k.startswith("CHAPPE_") and k not in ("PORT", "LOG_LEVEL", "PYTHONPATH")}
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        self.environment = {**kept, "PATH": path, "CHAPPE_PORT": self.port, "COLUMNS": "200", "NO_COLOR": "1", "no_proxy": "*"}

    def read(self, block: Block) -> None:
        try:
            _RUN[block.language](self, block)
        except Exception as error:
            error.add_note(f"in the block of {block.page}:{block.line}")
            raise

    # --- python

    def python(self, block: Block) -> None:
        if block.file is None:
            exec(compile(block.text, f"{block.page}:{block.line}", "exec"), self.module.__dict__)  # noqa: S102 - our own pages
            found = self.module.__dict__
        elif "/" in block.file[0]:  # of a project, whose own processes import it
            self.save(block)
            return
        else:
            self.save(block)
            name = block.file[0].removesuffix(".py")
            sys.modules.pop(name, None)
            importlib.invalidate_caches()
            found = importlib.import_module(name).__dict__
            self.module.__dict__.update({k: v for k, v in found.items() if not k.startswith("__")})
        for name in re.findall(r"^(?:async )?def (test_\w+)\(\)", block.text, re.MULTILINE):
            outcome = found[name]()
            if inspect.iscoroutine(outcome):
                asyncio.run(outcome)

    def save(self, block: Block) -> None:
        assert block.file is not None
        name, continued = block.file
        path = self.folder / name
        path.write_text((path.read_text() + "\n\n" if continued else "") + block.text)

    # --- settings and formats

    def toml(self, block: Block) -> None:
        tomllib.loads(block.text)
        path = self.folder / "chappe.toml"
        if block.file is not None:
            self.save(block)
        else:
            path = self.folder / "fragment.toml"
            path.write_text(block.text)
        load(environment={}, file=path)

    def json(self, block: Block) -> None:
        json.loads(block.text)

    def ini(self, block: Block) -> None:
        parser = configparser.ConfigParser(strict=False, interpolation=None)
        parser.optionxform = str  # type: ignore[assignment]
        parser.read_string(block.text)
        assert parser.sections()

    # --- shell

    def console(self, block: Block) -> None:
        for command, expected in commands_of(block):
            if command in EXEMPT:
                continue
            if re.match(r"(?:python manage\.py )?chappe (-\S+ \S+ )*run\b[^|;]*$", command):
                self.run_in_the_background(command)
            else:
                # Each is run by a shell that knows the variables of those before it.
                self.compare(command, self.shell(command), expected)

    def shell(self, command: str) -> str:
        state = self.folder.parent / "exported"
        before = f"set -a; [ -e {state} ] && . {state}; set +a\n"
        after = f"\ncode=$?; export -p | grep -E ' (CHAPPE_|TOKEN)' > {state}; exit $code"
        script = before + command.replace("localhost:7070", f"localhost:{self.port}") + after
        done = subprocess.run(
            ["bash", "-c", script], cwd=self.folder, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL, text=True, timeout=200, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"$ {command}\nended with {done.returncode}\n{done.stdout}\n{self.said()}"
        return done.stdout

    def compare(self, command: str, output: str, expected: list[str]) -> None:
        if not expected:
            return
        pattern = "".join(
            r"(?:.*\n)*?" if line.strip() == "…" else ".*".join(re.escape(part) for part in line.rstrip().split("…")) + r"[ \t]*\n"
            for line in expected
        )
        shown = output if output.endswith("\n") else output + "\n"
        listed = "\n".join(expected)
        assert re.fullmatch(pattern, shown), f"$ {command}\ngave\n{output}\nnot\n{listed}"

    def run_in_the_background(self, command: str) -> None:
        self.stop()
        state = self.folder.parent / "exported"
        script = f"set -a; [ -e {state} ] && . {state}; set +a\nexec {command}"
        with self.log.open("wb") as log:
            self.running = subprocess.Popen(
                ["bash", "-c", script], cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        deadline = time.monotonic() + 120
        while READY not in self.said():
            assert self.running.poll() is None, f"$ {command}\nended\n{self.said()}"
            assert time.monotonic() < deadline, f"$ {command}\nis not ready\n{self.said()}"
            time.sleep(0.02)

    def said(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def stop(self) -> None:
        if self.running is not None:
            if self.running.poll() is None:
                self.running.send_signal(signal.SIGTERM)
            assert self.running.wait(120) == 0, self.said()
            self.running = None

    def close(self) -> None:
        try:
            self.stop()
        finally:
            if self.running is not None and self.running.poll() is None:
                self.running.kill()
                self.running.wait()
            for name, module in list(sys.modules.items()):
                if getattr(module, "__file__", None) and Path(str(module.__file__)).parent == self.folder:
                    close_apps(module)
                    del sys.modules[name]
            close_apps(self.module)
            del sys.modules[self.module.__name__]


def close_apps(module: types.ModuleType) -> None:
    for value in list(vars(module).values()):
        if isinstance(value, App):
            value.close()


def commands_of(block: Block) -> Iterator[tuple[str, list[str]]]:
    """Return each command of a console block with the lines that it is shown to print."""
    command, expected = "", list[str]()
    for line in block.text.splitlines():
        if line.startswith("$ "):
            if command:
                yield command, expected
            command, expected = line[2:], []
        elif command.endswith("\\"):
            command = f"{command[:-1]}{line.strip()}"
        else:
            assert command, f"{block.page}:{block.line} begins with output"
            expected.append(line)
    if command:
        yield command, expected


_RUN: dict[str, Callable[[Reader, Block], None]] = {
    "python": Reader.python, "console": Reader.console, "toml": Reader.toml, "json": Reader.json, "ini": Reader.ini,
}  # fmt: skip


@pytest.mark.parametrize("page", [page for page in PAGES if any(b.page == page and b.language in _RUN for b in BLOCKS)])
def test_every_block_of_a_page_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    for name in list(os.environ):
        if name.startswith("CHAPPE_") or name in ("PORT", "LOG_LEVEL"):
            monkeypatch.delenv(name)
    reader = Reader(page, folder)
    try:
        for block in BLOCKS:
            if block.page == page and block.language in _RUN:
                reader.read(block)
    finally:
        reader.close()


def test_no_block_is_left_unrun() -> None:
    left = [f"{b.page}:{b.line} is {b.language or 'of no language'}" for b in BLOCKS if b.language not in _RUN and b.language not in PROSE]
    shown = {command for block in BLOCKS if block.language == "console" for command, _ in commands_of(block)}

    assert left == []
    assert set(EXEMPT) <= shown, "an exemption that no page needs"


# --- links


def anchors_of(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_links_between_pages_lead_somewhere(page: str) -> None:
    text = re.sub(r"```.*?```", "", (ROOT / page).read_text(), flags=re.DOTALL)
    broken: list[str] = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = (ROOT / page).parent / name if name else ROOT / page
        if not path.exists() or (anchor and path.suffix == ".md" and anchor not in anchors_of(path)):
            broken.append(target)

    assert broken == []


def test_every_page_is_in_a_table_of_contents() -> None:
    index = ROOT / "docs" / "index.md"
    listed = {line.strip() for b in BLOCKS if b.page == "docs/index.md" and b.language == "{toctree}" for line in b.text.splitlines()}
    pages = {str(Path(p).relative_to("docs").with_suffix("")) for p in PAGES if p.startswith("docs/")} - {"index"}

    assert index.exists()
    assert pages - listed == set()


@pytest.mark.parametrize("page", PAGES)
def test_the_tests_that_pages_name_exist(page: str) -> None:
    missing: list[str] = []
    for path, name in re.findall(r"(tests/[\w/]+\.py)::(\w+)", (ROOT / page).read_text()):
        source = ROOT / path
        if not source.exists() or not re.search(rf"^(async )?def {name}\(", source.read_text(), re.MULTILINE):
            missing.append(f"{path}::{name}")

    assert missing == []


@pytest.mark.parametrize("page", PAGES)
def test_the_files_that_pages_name_exist(page: str) -> None:
    named = set(re.findall(r"`((?:src|tests|docs|examples|benchmarks)/[\w/.-]+?)/?`", (ROOT / page).read_text()))

    assert [name for name in sorted(named) if not (ROOT / name).exists() and name != "docs/_build"] == []


# --- tables and the code


def rows_of(page: str, heading: str) -> list[list[str]]:
    """Return the cells of the table below a heading, without its head."""
    section = (ROOT / page).read_text().partition(f"\n{heading}\n")[2]
    lines = [line for line in re.split(r"\n#+ ", section)[0].splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))] for line in lines]


def plain(cell: str) -> str:
    return cell.strip("`")


def shown(value: Any) -> str:
    return "none" if value is None else json.dumps(list(value)) if isinstance(value, tuple) else json.dumps(value)


def defaults_of(kind: type) -> dict[str, Any]:
    fresh = kind()
    return {f.name: getattr(fresh, f.name) for f in msgspec.structs.fields(kind)}


def test_the_settings_are_those_of_the_code() -> None:
    rows = {plain(row[0]): plain(row[1]) for row in rows_of("docs/reference/settings.md", "## All settings")}

    assert {name: shown(value) for name, value in defaults_of(Settings).items() if name != "pools"} == {
        k: v for k, v in rows.items() if k != "pools"
    }
    assert list(rows) == list(Settings.__struct_fields__)


def test_the_settings_of_a_pool_are_those_of_the_code() -> None:
    rows = {plain(row[0]): plain(row[1]) for row in rows_of("docs/reference/settings.md", "## Pools")}

    assert {name: shown(value) for name, value in defaults_of(Pool).items()} == rows


def test_the_capabilities_are_those_of_the_code() -> None:
    rows = {plain(row[0]): plain(row[2]) for row in rows_of("docs/reference/messages.md", "## Capabilities")}

    class Plain(Command):
        pass

    spec = Plain.__spec__
    defaults = {name: "Retry(8)" if name == "retry" else shown(getattr(spec, name)) for name in Capabilities.__annotations__}

    assert {**defaults, "name": rows["name"]} == rows


def test_the_errors_are_those_of_the_code() -> None:
    rows = {plain(row[0]): (plain(row[1]), plain(row[2])) for row in rows_of("docs/reference/errors.md", "## All errors")}
    known: dict[str, tuple[str, str]] = {}
    for name, kind in vars(errors).items():
        if isinstance(kind, type) and issubclass(kind, ChappeError):
            status = next((str(_STATUS[k][0]) for k in kind.__mro__ if k in _STATUS), "500")
            known[name] = (str(kind.exit_code), status)
    verdicts = {plain(row[0]) for row in rows_of("docs/reference/errors.md", "## Verdicts")}

    assert rows == known
    assert verdicts == {n for n, k in vars(errors).items() if isinstance(k, type) and issubclass(k, Verdict) and k is not Verdict}


def test_the_routes_are_those_of_the_gateway(tmp_path: Path) -> None:
    made: Any = gateway(App("shop", settings=Settings(broker=f"sqlite:///{tmp_path}/chappe.db")))
    while not hasattr(made, "routes"):
        made = made._app
    rows = {plain(row[0]) for row in rows_of("docs/reference/http.md", "## Routes")}

    assert rows == {f"{next(iter(getattr(route, 'methods', {'GET'}) - {'HEAD'}))} {route.path}" for route in made.routes}


def test_the_verbs_of_the_application_are_those_of_the_code() -> None:
    rows = {plain(row[0]).partition("(")[0] for row in rows_of("docs/reference/app.md", "## The application")}
    internal = {"wait_for", "publish_all", "handle_now", "connection", "ports", "settings"}

    assert rows == {name for name in vars(App) if not name.startswith("_")} - internal


def test_the_verbs_of_a_trial_are_those_of_the_code() -> None:
    rows = {plain(row[0]).partition("(")[0] for row in rows_of("docs/how-to/testing.md", "## What a trial can do")}

    assert rows == {name for name in vars(Trial) if not name.startswith("_")}


def test_the_reference_of_the_command_line_is_what_the_program_says() -> None:
    made = runpy.run_path(str(ROOT / "docs" / "make_cli.py"))["document"]()

    assert (ROOT / "docs" / "reference" / "cli.md").read_text() == made, "run: .venv/bin/python docs/make_cli.py"


def test_every_dependency_has_its_reason() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [*project["project"]["dependencies"]]
    for group in (*project["project"]["optional-dependencies"].values(), *project["dependency-groups"].values()):
        wanted += group
    names = {re.split(r"[\[><=; ]", requirement)[0] for requirement in wanted}
    page = "docs/decisions/dependencies.md"
    rows = [plain(row[0]) for heading in ("## Needed to run", "## Extras", "## Needed to work on Chappe") for row in rows_of(page, heading)]

    assert sorted(rows) == sorted(names)


def test_the_names_of_the_package_are_in_the_reference() -> None:
    import chappe

    pages = "".join((ROOT / page).read_text() for page in PAGES if page.startswith("docs/reference/"))

    assert [name for name in chappe.__all__ if f"`{name}" not in pages] == []


def test_the_changelog_has_the_version_of_the_package() -> None:
    import chappe

    assert f"## [{chappe.__version__}]" in (ROOT / "CHANGELOG.md").read_text()
