"""`chappe doctor`: what on this machine could hurt, each with the remedy."""

from __future__ import annotations

import os
import resource
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import apsw
import click

from chappe.binding import refuse_open_bind
from chappe.cli.loading import bare_app, chosen_queues, find_app, run_with, settings_of
from chappe.cli.tables import as_json_option, show
from chappe.connection import Connection
from chappe.engines.file.database import refuse_network_disk, refuse_unsafe_sqlite
from chappe.engines.file.inspection import examine, nobody_else
from chappe.engines.file.preflight import refuse_folder
from chappe.engines.file.private_files import group_that_may_replace, keep_private
from chappe.errors import AlreadyOwned, ChappeError, CorruptStorage, InvalidSettings
from chappe.messages.finding import Finding
from chappe.redaction import without_secrets
from chappe.settings import Settings, place_of
from chappe.supervisor.listening import refuse_address
from chappe.words import counted

_LOW_DISK = 1024**3
_SLOW_SYNC = 0.02


@click.command()
@as_json_option
@click.pass_context
def doctor(ctx: click.Context, as_json: bool) -> None:
    """Check the file and its engine, or the servers, the limits and the application; exits with 1 if something is wrong."""
    settings = settings_of(ctx)
    place: list[tuple[str, Callable[[Settings], str]]] = []
    if settings.is_file:
        place = [("sqlite", _sqlite), ("disk", _disk), ("sync", _sync), ("file", _file)]
    if settings.is_file and settings.store is not None:
        place.append(("broker", _broker))
    checks = [("python", _python), *place, ("limits", _limits), ("bind", _bind), ("application", _application)]
    found: list[Finding] = []
    for name, check in checks:
        try:
            found.append(Finding(name, "ok", check(settings)))
        except (ChappeError, OSError) as error:
            found.append(Finding(name, "wrong", str(error)))
        except UserWarning as warning:
            found.append(Finding(name, "warning", str(warning)))
    found += [] if settings.is_file else _servers(settings)
    rows = [{"check": one.check, "verdict": one.verdict, "text": without_secrets(one.text)} for one in found]
    show(rows, ("check", "verdict", "text"), as_json=as_json)
    ctx.exit(any(one.verdict == "wrong" for one in found))


def _python(_: Settings) -> str:
    return sys.version.split()[0]


def _broker(settings: Settings) -> str:
    return (
        f"messages wait in {settings.path}, and the PostgreSQL that DATABASE_URL or store names is not used; "
        "to have them wait there, set CHAPPE_BROKER to its URL"
    )


def _sqlite(_: Settings) -> str:
    refuse_unsafe_sqlite()
    return f"{apsw.sqlite_lib_version()} in apsw"


def _disk(settings: Settings) -> str:
    path = settings.path.resolve()
    refuse_network_disk(path)
    free = shutil.disk_usage(_existing(path.parent)).free
    if free < _LOW_DISK:
        raise UserWarning(f"{free / 1024**2:.0f} MiB are free in {path.parent}; less than 1 GiB leaves little room for a backlog")
    return f"{free / 1024**3:.1f} GiB free in {path.parent}"


def _sync(settings: Settings) -> str:
    probe = _existing(settings.path.resolve().parent) / f".chappe-doctor-{os.getpid()}"
    handle = os.open(probe, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        started = time.perf_counter()
        for _ in range(20):
            os.write(handle, b"x" * 4096)
            os.fdatasync(handle)
        each = (time.perf_counter() - started) / 20
    finally:
        os.close(handle)
        probe.unlink()
    if each > _SLOW_SYNC:
        raise UserWarning(f"a sync takes {each * 1000:.1f} ms: single sends cannot be faster, batches can")
    return f"{each * 1e6:.0f} µs for one sync"


def _file(settings: Settings) -> str:
    path = settings.path
    refuse_folder(path)
    readable: list[str] = []
    keep_private(path, lambda file, mode: readable.append(f"{file} has mode {mode:o}, others may use it: chmod go-rwx {file}"))
    if group := group_that_may_replace(path):
        folder = path.resolve().parent
        readable.append(f"everybody in group {group} can replace files in {folder}; if you do not trust them all: chmod g-w {folder}")
    found = _examined(settings, path)
    if readable:
        raise UserWarning("; ".join([*readable, found]))
    return found


def _examined(settings: Settings, path: Path) -> str:
    if not path.exists() and not Path(f"{path}-wal").exists():
        return f"{path} does not exist yet; the first message makes it"
    try:
        with nobody_else(path):
            faults = examine(path)
    except AlreadyOwned:
        return _engine(settings)
    if faults:
        raise CorruptStorage(f"{path}: {'; '.join(faults)}; it was left as it is. Restore a copy, or save what can be read: chappe recover")
    return f"{path} is whole ({path.stat().st_size / 1024**2:.1f} MiB), no engine runs"


def _engine(settings: Settings) -> str:
    overview = run_with(bare_app(settings), lambda connection: connection.store.overview())
    engine, clients = overview.engine, len(overview.clients)
    if engine.full:
        raise UserWarning(f"engine {engine.pid} answers, but the disk is full: what is new is refused until there is room")
    return f"engine {engine.pid} answers, {counted(clients, 'client')}; stop it to have every page checked"


def _servers(settings: Settings) -> list[Finding]:
    async def work(connection: Connection) -> list[Finding]:
        overview = await connection.store.overview()
        engine = overview.engine
        server = engine.broker or f"PostgreSQL {engine.postgres}"
        told = Finding("servers", "ok", f"{server}, {engine.path}, {counted(len(overview.clients), 'client')}")
        return [told, *await connection.broker.preflight()]

    try:
        return run_with(bare_app(settings), work)
    except (ChappeError, OSError) as error:
        return [Finding("servers", "wrong", str(error))]


def _limits(_: Settings) -> str:
    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 1024:
        raise UserWarning(f"only {counted(soft, 'file')} may be open; raise it with: ulimit -n 65536")
    return f"{soft} open files"


def _bind(settings: Settings) -> str:
    refuse_open_bind(settings)
    running = refuse_address(settings.host, settings.port, settings.path)
    served = " with a token" if settings.token or settings.tokens else ", loopback only"
    return f"{place_of(settings.host, settings.port)}{served}{running and f'; {running}'}"


def _application(settings: Settings) -> str:
    app = find_app(settings)
    for name, pool in settings.pools.items():
        try:
            if pool.bounds[1]:
                chosen_queues(app, pool.queues, pool.exclude)
        except InvalidSettings as error:
            raise InvalidSettings(f"pools.{name}: {error}") from None
    return f"{settings.app}: {counted(len(app.registry.commands()), 'command')}, {counted(len(app.registry.consumed_queues()), 'queue')}"


def _existing(folder: Path) -> Path:
    while not folder.is_dir():
        folder = folder.parent
    return folder
