"""Tells somebody what Chappe cannot mend by itself: by a command of the operator's, and by a webhook."""

from __future__ import annotations

import asyncio
import logging
import os
import shlex
import urllib.error
from asyncio import subprocess
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from chappe.messages.codec import encode_json
from chappe.settings import without_token

log = logging.getLogger("chappe.alerts")

_PATIENCE: Final = 30.0
_ANSWER: Final = 10.0  # seconds
_AGAIN: Final = (1.0, 5.0, 30.0, 120.0)  # seconds before a webhook is tried again

Sleep = Callable[[float], Awaitable[None]]


async def alert(command: str | None, text: str) -> None:
    """Run the command with the text as its last argument and in `CHAPPE_ALERT`; what goes wrong with it is logged."""
    if not command:
        return
    environment = without_token(os.environ) | {"CHAPPE_ALERT": text}
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


async def post(url: str | None, told: Mapping[str, Any], sleep: Sleep = asyncio.sleep) -> None:
    """Send something to a webhook as JSON, again a few times where that fails; what goes wrong in the end is logged."""
    if not url:
        return
    for wait in (*_AGAIN, None):
        try:
            await asyncio.to_thread(_post, url, encode_json(told))
            return
        except (OSError, ValueError) as error:  # also what urllib raises
            said = f"status {error.code}" if isinstance(error, urllib.error.HTTPError) else type(error).__name__
            if wait is None or (isinstance(error, urllib.error.HTTPError) and 400 <= error.code < 500 and error.code != 429):
                log.error("the webhook of alerts was not reached: %s", said)
                return
            log.warning("the webhook of alerts was not reached (%s); trying again in %g s", said, wait)
            await sleep(wait)


def _post(url: str, body: bytes) -> None:
    import urllib.request  # what no alert needs is not loaded

    request = urllib.request.Request(url, body, {"Content-Type": "application/json", "User-Agent": "Chappe"})  # noqa: S310 - checked
    with urllib.request.urlopen(request, timeout=_ANSWER):  # noqa: S310
        pass
