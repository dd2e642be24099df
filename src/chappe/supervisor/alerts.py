"""Tells somebody what a supervisor cannot mend by itself, by a command of the operator's."""

from __future__ import annotations

import asyncio
import logging
import os
import shlex
from asyncio import subprocess
from typing import Final

from chappe.supervisor.environment import TOKEN_VARIABLE

log = logging.getLogger("chappe.supervisor")

_PATIENCE: Final = 30.0


async def alert(command: str | None, text: str) -> None:
    """Run the command with the text as its last argument and in `CHAPPE_ALERT`; what goes wrong with it is logged."""
    if not command:
        return
    environment = {name: value for name, value in os.environ.items() if name != TOKEN_VARIABLE} | {"CHAPPE_ALERT": text}
    try:
        process = await asyncio.create_subprocess_exec(
            *shlex.split(command), text, stdin=subprocess.DEVNULL, env=environment, start_new_session=True
        )
    except (OSError, ValueError) as error:
        log.error("the alert command cannot be started: %s", error)
        return
    try:
        async with asyncio.timeout(_PATIENCE):
            code = await process.wait()
        if code:
            log.error("the alert command ended with %d", code)
    except BaseException as error:
        if process.returncode is None:
            process.kill()
        if not isinstance(error, TimeoutError):
            raise
        log.error("the alert command did not end within %g s and is killed", _PATIENCE)
