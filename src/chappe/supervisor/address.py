"""Whether the gateway can listen where it is asked to, and who is there already."""

from __future__ import annotations

import errno
from pathlib import Path

from chappe.errors import InvalidSettings
from chappe.settings import place_of
from chappe.supervisor.listening import bound


def refuse_address(host: str, port: int, path: Path) -> str:
    """Raise `InvalidSettings` if the gateway cannot listen there; return who does already, if it is the gateway of this file.

    A gateway whose supervisor died is let be: it is about to end, and is waited for when the next one starts.
    """
    fault = _fault(host, port)
    if fault is None:
        return ""
    if fault.errno != errno.EADDRINUSE:
        raise InvalidSettings(f"the gateway cannot listen on {place_of(host, port)}: {fault.strerror or fault}; see --host and --port")
    holder, text = _holder(port, _supervisor_of(path))
    if holder is None:
        raise InvalidSettings(
            f"the gateway cannot listen on {place_of(host, port)}: {text} has that port; end it, "
            "or take another port: --port, CHAPPE_PORT, or port in chappe.toml"
        )
    return text


def _fault(host: str, port: int) -> OSError | None:
    try:
        bound(host, port).close()
    except OSError as error:
        return error
    return None


def _supervisor_of(path: Path) -> int | None:
    try:
        return int(Path(f"{path.resolve()}.supervisor.lock").read_text())
    except (OSError, ValueError):
        return None


def _holder(port: int, supervisor: int | None) -> tuple[int | None, str]:
    """Return the process that listens there if it is ours or ends soon, and words for it."""
    import psutil  # 1 MB that is needed in this case only

    try:
        found = [c.pid for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN and c.laddr and c.laddr.port == port]
        process = psutil.Process(next(pid for pid in found if pid))
        name, above = process.name(), [parent for parent in (process, *process.parents()) if parent.name().startswith("chappe")]
    except (psutil.Error, StopIteration):
        return None, "another process"
    try:
        place = f" in {process.cwd()}"
    except psutil.Error:
        place = ""
    text = f"process {process.pid} ({name}{place})"
    ours = any(one.pid == supervisor for one in above)
    left = bool(above) and above[0].pid == process.pid and not any(one.name().startswith("chappe superv") for one in above)
    return (process.pid if ours or left else None), text
